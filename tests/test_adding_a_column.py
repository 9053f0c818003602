"""A measured column as docs/architecture.md adds it, in a copy of the tree: seen in what every verb measures."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, Run

COMMANDS = """
from compress.cli import main
assert main("prune vit.pth --keep 0.7 --threads 1 --seconds 0.1".split()) == 0
assert main("report vit-prune".split()) == 0
"""


def read_blocks() -> list[str]:
    """The three code blocks of the section."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.split("## Adding a measured column")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def insert(path: Path, anchor: str, text: str) -> None:
    """Puts text behind the line that holds `anchor`."""
    before, line, after = path.read_text().partition(anchor)
    rest, newline, below = after.partition("\n")
    assert line
    path.write_text(f"{before}{line}{rest}{newline}{text}{below}")


def test_a_column_is_a_field_a_column_and_a_function(run: Run, tmp_path: Path) -> None:
    for name in ("compress", "baselines", "reports"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("published", "__pycache__"))
    field, column, function = read_blocks()
    insert(tmp_path / "reports" / "row.py", "    latency_samples_s:", f"    {field.strip()}\n")
    insert(tmp_path / "reports" / "columns.py", "COLUMNS = [", f"    {column.rstrip()},\n")
    figures = tmp_path / "compress" / "evaluate" / "figures.py"
    insert(figures, "    measure_start,", "    measure_slowest,\n")
    figures.write_text(figures.read_text().replace("FIGURES: list", f"{function}\n\nFIGURES: list", 1))

    shutil.copy(run.out / "best_vit_model.pth", tmp_path / "vit.pth")
    command = [sys.executable, "-c", COMMANDS]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "250"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "slowest" in done.stdout
    assert "slowest ms" in (tmp_path / "vit-prune" / "report.md").read_text()
    header, first, *_ = (tmp_path / "vit-prune" / "rows.csv").read_text().splitlines()
    assert float(first.split(",")[header.split(",").index("slowest_s")]) > 0
