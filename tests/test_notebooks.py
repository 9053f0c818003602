"""The notebooks of the documentation run, and are stored with what they print."""

import json
from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
LONG, SHORT = "for _ in range(15):", "for _ in range(5):"  # epochs of the model that everything else is done to


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    program = ["".join(cell["source"]) for cell in cells]
    assert sum(LONG in each for each in program) == 1
    names: dict[str, object] = {}
    for each in program:
        exec(each.replace(LONG, SHORT), names)
    assert cells[-1]["outputs"], "run docs/make_notebooks.py"
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
