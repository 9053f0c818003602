"""What the command line needs beside its commands: a console, lists given as options, refusals."""

import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from baselines.errors import InputError

STOPPED = 130  # exit code after Ctrl-C


def refuse(message: str, code: int = 2) -> int:
    """Says in one line on standard error what is wrong; returns the exit code."""
    from reports.text import clean

    say(f"error: {clean(message)}")
    return code


def guarded(call: Callable[[], Any], refuse: Callable[..., int] = refuse) -> int:
    """Runs a command line to its exit code; what a person can put right is said in one line, without a traceback.

    Args:
        call: gives what the command returned: an exit code, something that has one, or nothing.
        refuse: says what is wrong, and gives the exit code that belongs to it.
    """
    try:
        result = call()
    except (InputError, FloatingPointError) as error:
        return refuse(str(error))
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = STOPPED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # of click, or of the click that newer versions of typer carry
        if usage is not None:
            command = getattr(getattr(error, "ctx", None), "command_path", "compress")
            return refuse(f"{usage().rstrip('.')}; see {command} --help")
        from reports.row import RowError  # what takes long to load is loaded where a command failed

        if isinstance(error, RowError):
            return refuse(str(error))
        from compress.exporters.onnx import ParityError
        from compress.runtimes.server import out_of_memory

        if isinstance(error, ParityError):
            return refuse(str(error), 1)
        if out_of_memory(error):
            return refuse("there is not enough memory for this; make [model] or --batch-size smaller")
        raise
    if result == STOPPED:  # newer versions of typer turn Ctrl-C into this themselves
        say("stopped; run the same command again to go on")
    return result if isinstance(result, int) else getattr(result, "exit_code", 0)


def make_console() -> Console:
    first = os.environ.get("RANK", "0") == "0"  # of those that torchrun started
    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False, quiet=not first)
    if not console.is_terminal:
        console.width = 240  # tables in a file or a pipe are not cut
    return console


def say(line: str) -> None:
    """On standard error, why this process ends; of several that `torchrun` started, one says it for all."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from baselines.distributed import speaks

        if not speaks():
            return
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


def names(text: str, option: str) -> list[str]:
    """`a,b` -> [a, b]; raises InputError where there is none."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise InputError(f"{option} {text!r} names nothing; give names with commas between them")
    return found


def split_names(text: str | None) -> tuple[str, ...]:
    """`a,b` -> (a, b); nothing where no text was given."""
    return tuple(filter(None, (part.strip() for part in text.split(",")))) if text else ()


def numbers(text: str, option: str) -> tuple[int, ...]:
    """`1,32` -> (1, 32), each once; raises InputError for anything but whole numbers above 0."""
    parts = names(text, option)
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"{option} {text!r} is not a list of whole numbers above 0, such as 1,32")
    return tuple(dict.fromkeys(int(part) for part in parts))


def share(text: str, option: str) -> float:
    """`5%` or `0.05` -> 0.05; raises InputError for anything that is no share above 0 and below 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise InputError(f"{option} {text!r} is not a share such as 5% or 0.05")
    return value


def choose_device(text: str) -> str:
    """`cpu`, `cuda`, or for `auto` the CPU, which is what integers run on by default.

    Raises:
        InputError: unknown, or not here.
    """
    from baselines import device

    return "cpu" if text == "auto" else device.resolve(text).type


def devices(text: str) -> tuple[str, ...]:
    """`cpu`, `cuda`, `cpu,cuda` or `auto` -> devices that exist here, each once.

    Raises:
        InputError: unknown, or not here.
    """
    from baselines import device

    if text == "auto":
        return tuple(dict.fromkeys(("cpu", device.resolve("auto").type)))
    found: list[Any] = [device.resolve(name).type for name in names(text, "--device")]
    return tuple(dict.fromkeys(found))
