"""Python's search for reference cycles, put off while a graph is traced."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def put_off_collection() -> Iterator[None]:
    """Collects no cycles inside: tracing makes objects by the million, and looking through them took a sixth of it."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
