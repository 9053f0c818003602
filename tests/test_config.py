"""The files under `configs/` load, say how they are run, and the one for digits is the default."""

from itertools import takewhile
from pathlib import Path

import pytest

from compress import config

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(ROOT.glob("configs/**/*.toml"))
NAMES = [path.relative_to(ROOT).as_posix() for path in FILES]


def test_digits_written_out_is_the_default() -> None:
    assert config.read(ROOT / "configs/digits.toml") == config.read(None)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_loads_and_opens_with_its_command(path: Path) -> None:
    assert config.read(path).variants
    header = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    assert any(f"--config {path.relative_to(ROOT).as_posix()}" in line for line in header)
