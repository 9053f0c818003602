"""How far a training is, for the person at the terminal."""

from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
