"""Groups of options: dataclasses on the side of the code, options like any others on the side of the terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from compress.checkpoints.user_models import resolve_spec
from compress.cli.groups import FileOptions, MachineOptions, SourceOptions, TrainingOptions, with_groups
from compress.importers import Hints


@dataclass(frozen=True)
class Paper:
    width: Annotated[int, typer.Option("--wide", min=1, help="Of a page, in mm.", rich_help_panel="Paper")]
    lines: Annotated[int, typer.Option(help="On a page.")] = 40


@dataclass(frozen=True)
class Ink(Paper):
    black: Annotated[bool, typer.Option("--black/--blue")] = True


def run(args: list[str]) -> tuple[Any, list[Any]]:
    calls = []

    @with_groups
    def write(text: Annotated[str, typer.Argument()], ink: Ink, copies: int = 1, where: FileOptions = DEFAULTS) -> None:
        """Writes."""
        calls.append((text, ink, copies, where))

    app = typer.Typer()
    app.command()(write)
    return CliRunner().invoke(app, args, env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}), calls


DEFAULTS = FileOptions(heads=3)


def test_groups_come_as_they_were_typed() -> None:
    assert run(["a", "--wide", "5"])[1] == [("a", Ink(5), 1, DEFAULTS)]
    given = ["a", "--wide", "5", "--blue", "--lines", "7", "--copies", "2", "--heads", "4", "--no-ema"]
    assert run(given)[1] == [("a", Ink(5, 7, False), 2, FileOptions(heads=4, ema=False))]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["a"], "Missing option"),
        (["a", "--wide", "0"], "Invalid value for"),
        (["a", "--width", "5"], "No such option"),
    ],
)
def test_what_typer_checks_is_checked(args: list[str], says: str) -> None:
    result, calls = run(args)
    assert (result.exit_code, calls) == (2, [])
    assert says in result.output


def test_help_shows_options_defaults_and_panels() -> None:
    told = run(["--help"])[0].output
    for words in ("Writes.", "Of a page, in mm.", "Paper", "On a page.", "[default: 40]", "--no-ema"):
        assert words in told


def test_names_of_two_groups_must_differ() -> None:
    def twice(first: Paper, second: Ink) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):
        with_groups(twice)


def test_our_groups_say_what_they_come_to() -> None:
    images = {"normalize": "half", "resize": "0.9", "interpolation": "bicubic"}
    hints = SourceOptions(heads=2, image_size="8x9", ema=False, weights="student", code="nets.py:make", **images).hints
    said = {"heads": 2, "image_size": (8, 9), "ema": False, "weights": "student", **images}
    assert hints == Hints(**said, model=resolve_spec("nets.py:make"))
    assert FileOptions(heads=2, weights="last").hints == Hints(heads=2, weights="last")
    assert MachineOptions(threads=3).processors == 3
    assert TrainingOptions(device="cpu", seed=4).out == Path("runs")
