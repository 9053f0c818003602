"""`--json`: one document on standard output, everything else on standard error, whatever the command."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any, get_type_hints

import typer

from compress import __version__
from compress.cli import terminal
from compress.cli.groups import declare
from compress.outcome import Stopped

OPTION = "--json"
HELP = {"-h", "--help"}
AsJson = Annotated[bool, typer.Option(OPTION, help="Print one JSON document to stdout, everything else to stderr.")]


def with_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the option `--json`. It returns its `Outcome`, which `run_command` prints where asked."""

    def flat(as_json: bool, **values: Any) -> Any:
        try:
            return command(**values)
        except Stopped as stop:  # of which typer leaves an exit code
            terminal.remains = str(stop)
            raise

    annotations = get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)
    kind = inspect.Parameter.KEYWORD_ONLY
    known = [p.replace(annotation=annotations[p.name], kind=kind) for p in signature.parameters.values()]
    added = inspect.Parameter("as_json", kind, default=False, annotation=AsJson)
    return declare(flat, command, [*known, added])


def run_command(call: Callable[[], Any], args: Sequence[str], *, debug: bool = False) -> int:
    """Runs a command line to its exit code, and prints what it came to as JSON where it asks for that.

    Errors become `{"error": ...}`; one that is a fault of ours keeps its traceback, too.

    Args:
        call: runs the command and gives what it returned.
        debug: see `terminal.guarded`.
    """
    if OPTION not in args or HELP & set(args):
        return terminal.guarded(call, debug=debug)
    name = next((each for each in args if not each.startswith("-")), None)
    document: dict[str, Any] = {"command": name, "version": __version__, "exit_code": 1}

    def keep() -> Any:
        outcome = call()
        document.update(outcome.describe() if hasattr(outcome, "describe") else {})
        return outcome

    def refuse(message: str, code: int = 2) -> int:
        document["error"] = message
        return terminal.refuse(message, code)

    try:
        with _divert_output():
            document["exit_code"] = terminal.guarded(keep, refuse, debug=debug)
    except BaseException as error:
        document["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        print(json.dumps(document, indent=1, default=str))
    return document["exit_code"]


@contextmanager
def _divert_output() -> Iterator[None]:
    """What is written to standard output goes to standard error, also by libraries and child processes."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
