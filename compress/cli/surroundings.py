"""What a command finds around it, and how it leaves it: streams, what libraries print, signals."""

import contextlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from compress.cli import terminal


@contextlib.contextmanager
def prepare(*, debug: bool) -> Iterator[None]:
    """Around a command: plain signs where a terminal has no others, no chatter of libraries, a word when it is ended.

    Args:
        debug: what libraries warn of is shown.
    """
    os.environ["MPLBACKEND"] = "agg"  # plots go into files: a backend that is not installed must not end a report
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with contextlib.ExitStack() as stack:
        if not (debug or sys.warnoptions):
            stack.enter_context(_quieten())
        for name in ("SIGTERM", "SIGHUP"):
            stack.enter_context(_say_on(name))
        yield


@contextlib.contextmanager
def _quieten() -> Iterator[None]:
    """What concerns a person is said in words of ours; what libraries tell programmers is not."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)


@contextlib.contextmanager
def _say_on(name: str) -> Iterator[None]:
    """A signal ends the command as Ctrl-C does, and is named; one that is ignored, as under `nohup`, stays so."""
    number = getattr(signal, name, None)
    if number is None or signal.getsignal(number) != signal.SIG_DFL:
        yield
        return
    owner = os.getpid()

    def end(_number: int, _frame: FrameType | None) -> Any:
        if os.getpid() != owner:  # a process that loads images, which is ended so, too
            os._exit(128 + number)
        terminal.ended_by = number
        raise KeyboardInterrupt

    try:
        signal.signal(number, end)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        if signal.getsignal(number) is end:
            signal.signal(number, signal.SIG_DFL)
