"""What docs/python.md says works as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT


def test_every_line_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert names["logits"].shape == (4, 10)
    assert [len(each) for each in names["answers"]] == [2] * 4
    assert (tmp_path / "digits.int8.onnx").is_file()
    assert (tmp_path / "digits.onnx").is_file()
    assert names["pruned"].path.suffix == ".pth"
    assert list(names["both"].frame["variant"]) == ["vit", "topk"]
