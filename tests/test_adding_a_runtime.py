"""The runtime that docs/architecture.md adds is one file and one line: put in place, everybody finds it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Run
from PIL import Image

FACTS = """
import sys
from pathlib import Path
from compress import runtimes
from compress.doctor import engines
assert runtimes.find_openers(Path("a.onnx")) == ["onnxruntime", "openvino", "tensorrt", "reference"]
assert runtimes.find_openers(Path("a.xml")) == ["openvino", "nncf"]
assert runtimes.get("reference").dtypes == {"fp32"}
assert "onnx" in runtimes.list_packages(optional=False)
assert engines.list_required().count("onnx") == 1
"""
COMMANDS = """
import sys
from compress.cli import main
from compress.doctor import engines
probe = engines.probe
engines.probe = lambda: probe(["torch", "onnx", "onnxruntime"])  # all that compress uses take long to import
graph, image = sys.argv[1:]
for args in (["predict", graph, image], ["predict", graph, image, "--runtime", "reference"], ["doctor", graph]):
    assert main(args) == 0
    print("---", flush=True)
"""
MEASURED = """
import sys
from compress.cli import main
short = "--threads 1 --seconds 0.1 --runtime onnxruntime,reference".split()
bench = ["bench", "--checkpoint", "vit.pth", "--variants", "vit", "--no-plain", "--batch-size", "1", "--out", "bench"]
assert main([*bench, *short]) == 0
assert main(["report", "bench"]) == 0
assert main(["quantize", "vit.pth", *short]) == 2  # its kernels multiply no integers: the registry says so
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source with the blocks of the page in it."""
    folder = tmp_path_factory.mktemp("tree")
    for package in ("compress", "baselines", "reports"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("published", "__pycache__"))
    section = (ROOT / "docs" / "architecture.md").read_text().split("## Adding a runtime\n")[1].split("\n## ")[0]
    module, line, test = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (folder / "compress" / "runtimes" / "reference.py").write_text(module)
    (folder / "test_reference.py").write_text(test)
    registry = folder / "compress" / "runtimes" / "__init__.py"
    head, tail = registry.read_text().split("REGISTRY = {\n")
    entries, tail = tail.split("}\n", 1)
    registry.write_text(f"{head}REGISTRY = {{\n{entries}{line}}}\n{tail}")
    return folder


def execute(tree: Path, *args: object) -> str:
    """What a command of the changed tree prints."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_test_holds(tree: Path) -> None:
    execute(tree, "-m", "pytest", "-p", "no:cacheprovider", "test_reference.py")


def test_the_registry_says_what_it_is(tree: Path) -> None:
    execute(tree, "-c", FACTS)


def test_it_predicts_and_is_inspected(tree: Path, run: Run, tmp_path: Path) -> None:
    path = next(run.out.glob("models/*/vit.onnx"))
    Image.new("L", (8, 8), 200).save(image := tmp_path / "a.png")
    usual, ours, examined, _ = execute(tree, "-c", COMMANDS, path, image).split("---\n")
    assert "onnxruntime on cpu" in usual
    assert "reference on cpu: numpy" in ours
    assert usual.splitlines()[1] == ours.splitlines()[1]  # the same class, as probably
    assert re.search(r"reference\W+fp32", examined)


def test_it_is_measured_and_reported(tree: Path, run: Run) -> None:
    shutil.copy(run.out / "best_vit_model.pth", tree / "vit.pth")
    execute(tree, "-c", MEASURED)
    rows = [json.loads(line) for line in (tree / "bench" / "rows.jsonl").read_text().splitlines()]
    usual, ours = sorted(rows, key=lambda row: row["runtime"])
    assert (ours["runtime"], ours["executed"], ours["failed"]) == ("reference", "fp32", None)
    assert ours["top1"] == usual["top1"]
    assert ours["latency_samples_s"]
    assert "| reference" in (tree / "bench" / "report.md").read_text()
