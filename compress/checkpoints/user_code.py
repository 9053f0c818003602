"""Around code of the user's while it runs."""

import contextlib
from collections.abc import Iterator

import torch

from baselines.progress import say_while_waiting

SAID = 160  # letters of an error that are told


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """Around the user's code: says what is waited for, and undoes a changed default dtype."""
    before = torch.get_default_dtype()
    try:
        with say_while_waiting(what):
            yield
    finally:
        torch.set_default_dtype(before)


def format_error(error: BaseException) -> str:
    """Its type and first line, also of one that cannot say what it is."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # it cannot say what it is
        lines = []
    return f"{type(error).__name__}: {lines[0]}"[:SAID] if lines else type(error).__name__
