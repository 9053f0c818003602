"""What the command line needs beside its commands: a console, lists given as options, refusals."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console

from baselines.errors import InputError
from compress.checkpoints import named_code
from compress.cli import faults

STOPPED = 130  # exit code after Ctrl-C
remains = ""  # of a command that was ended, if it says so: what is kept, and what the same command does next
ended_by = 0  # the signal that ended this command, if one did; 0: Ctrl-C, or nothing


def refuse(message: str, code: int = 2) -> int:
    """Says in one line on standard error what is wrong; returns the exit code."""
    from reports.text import clean

    say(f"error: {clean(message)}")
    return code


def guarded(call: Callable[[], Any], refuse: Callable[..., int] = refuse, *, debug: bool = False) -> int:
    """Runs a command line to its exit code; what a person can put right is said in one line, without a traceback.

    Args:
        call: gives what the command returned: an exit code, something that has one, or nothing.
        refuse: says what is wrong, and gives the exit code that belongs to it.
        debug: the traceback comes before the line.
    """
    global ended_by, remains
    ended_by, remains = 0, ""
    named_code.name_code(None)
    try:
        result = call()
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = STOPPED
    except BaseException as error:
        if debug:
            traceback.print_exception(error)
        sentence, exit_code = _explain(error)
        if sentence is None:
            raise
        return refuse(sentence, exit_code)
    finally:  # nor does a later command run code that this one named
        named_code.name_code(None)
    if result == STOPPED:  # newer versions of typer turn Ctrl-C into this themselves
        why = f"ended by {signal.Signals(ended_by).name}" if ended_by else "stopped"
        say(f"{why}; {remains or 'run the same command again to resume'}")
        return 128 + ended_by if ended_by else STOPPED
    return result if isinstance(result, int) else getattr(result, "exit_code", 0)


def _explain(error: BaseException) -> tuple[str | None, int]:
    """What ended a command, in a sentence, and its exit code; None where it is a fault of ours."""
    place = faults.locate_user_code(error)
    if isinstance(error, InputError | FloatingPointError):
        return f"{error} [{place}]" if place else str(error), 2
    usage = getattr(error, "format_message", None)  # of click, or of the click that newer versions of typer carry
    if usage is not None:
        command = getattr(getattr(error, "ctx", None), "command_path", "compress")
        return f"{usage().rstrip('.')}; see {command} --help", 2
    from reports.row import RowError  # what takes long to load is loaded where a command failed

    if isinstance(error, RowError):
        return str(error), 2
    from compress.exporters.onnx import ParityError
    from compress.runtimes.server import out_of_memory

    if isinstance(error, ParityError):
        return str(error), 1
    if isinstance(error, Exception) and out_of_memory(error):
        return "there is not enough memory for this; make [model] or --batch-size smaller", 2
    if place:
        return f"the code of --model failed ({faults.describe_error(error)}) [{place}]; {faults.DEBUG} shows more", 2
    return faults.describe_engine_error(error), 1


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
