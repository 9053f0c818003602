"""How far work is, for the person at the terminal."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PATIENCE_S = 10  # before a line says what is waited for


class progress_bar:
    """A rich progress bar on a terminal, silence elsewhere; as a context it gives `advance(text, by=1)`."""

    def __init__(self, title: str, total: int, done: int):
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
        self.bar = Progress(*columns, TimeRemainingColumn(), transient=True)
        self.bar.disable = not self.bar.console.is_terminal
        self.task = self.bar.add_task(title, total=total, completed=done, text="")

    def __enter__(self) -> Callable[..., None]:
        self.bar.start()
        return lambda text, by=1: self.bar.update(self.task, advance=by, text=text)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


@contextlib.contextmanager
def say_while_waiting(what: str) -> Iterator[None]:
    """A line on standard error, again and again, while something takes longer than anybody expects."""
    over = threading.Event()

    def say() -> None:
        waited, step = 0, PATIENCE_S
        while not over.wait(step):
            waited += step
            print(f"still waiting for {what}, {waited} s by now; Ctrl-C stops it", file=sys.stderr, flush=True)
            step = waited  # after 10, 20, 40 s, ...

    threading.Thread(target=say, daemon=True).start()
    try:
        yield
    finally:
        over.set()
