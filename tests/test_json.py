"""`--json`: one document on standard output, whatever the command and however it ends."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MADE, Run
from PIL import Image

from compress import __version__
from compress.checkpoints import named_code, user_models
from compress.cli import main
from compress.cli.json_output import run_command
from compress.outcome import Outcome
from compress.runtimes.client import make_environment
from reports import state_verdict
from reports.columns import COLUMNS


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line with `--json`; its document, and what stood on standard error."""

    def call(*args: object) -> tuple[dict[str, Any], str]:
        code = main([*map(str, args), "--json"])
        shown = capfd.readouterr()
        document = json.loads(shown.out)
        assert (document["command"], document["version"]) == (args[0], __version__)
        assert document["exit_code"] == code
        return document, shown.err

    return call


def test_a_report_and_a_bench_give_rows_verdict_and_files(run: Run, tmp_path: Path, ask: Any) -> None:
    shutil.copytree(run.out, tmp_path / "run")
    asked = ask("report", tmp_path / "run"), ask("bench", *run.args[:-1], tmp_path / "run")
    for document, said in asked:
        rows = document["rows"]
        assert [(row["variant"], row["runtime"], row["executed"]) for row in rows] == MADE
        assert all(row["latency_s"] > 0 and row["n_images"] == 360 for row in rows)
        assert rows[0].keys() == {column.key for column in COLUMNS}
        assert document["verdict"] in said
        assert document["chosen"] is None
        assert all(Path(path).is_file() for path in document["written"])
        assert "wrote" in said
    assert asked[0][0]["rows"] == asked[1][0]["rows"]


def test_runs_that_are_compared(run: Run, tmp_path: Path, ask: Any) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(run.out / "rows.jsonl", tmp_path / name)
    document, _ = ask("report", tmp_path / "a", tmp_path / "b", "--fail-if-slower", "90%")
    assert document["runs"].keys() == {str(tmp_path / name) for name in ("a", "b")}
    assert (document["too_slow"], document["exit_code"]) == ([], 0)


def test_what_a_model_is_and_what_it_says(run: Run, tmp_path: Path, ask: Any) -> None:
    document, said = ask("inspect", run.checkpoint())
    assert document["model"]["dim"] == 32
    assert f"{document['parameters']:,}" in said
    assert document["classes"] == list("0123456789")
    image, target = tmp_path / "a.png", tmp_path / "vit.onnx"
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(image)
    document, _ = ask("export", run.checkpoint(), "--out", target)
    assert (document["written"], document["agreement"]) == ([str(target)], 1.0)
    document, _ = ask("predict", target, image, "--top", 2, "--threads", 1)
    (prediction,) = document["predictions"]
    assert prediction["image"] == str(image)
    likeliest, second = prediction["classes"]
    assert 1 >= likeliest["probability"] >= second["probability"] > 0
    assert document["runtime"] == "onnxruntime"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["inspect", "missing.pth"], "missing.pth"),
        (["bench", "--sead", "1"], "--sead"),
        (["predict"], "compress predict --help"),
        (["report", "nowhere"], "nowhere holds no rows.jsonl"),
    ],
)
def test_errors_are_documents_too(args: list[str], words: str, ask: Any) -> None:
    document, said = ask(*args)
    assert document["exit_code"] == 2
    assert words in document["error"]
    assert document["error"] in " ".join(said.split())


def test_nothing_else_reaches_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> Outcome:
        print("a line of some library")
        sys.stdout.flush()
        return Outcome(rows=[], written=[Path("a")], exit_code=1)

    assert run_command(work, ["bench", "--json"]) == 1
    shown = capfd.readouterr()
    assert json.loads(shown.out)["written"] == ["a"]
    assert shown.err == "a line of some library\n"
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0, ["bench", "--json"])
    assert json.loads(capfd.readouterr().out)["error"].startswith("ZeroDivisionError")


def test_code_that_a_command_names_is_that_of_this_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(named_code.VARIABLE, "package.outer:make")  # which a command does not take
    for spec in ("package.first:make", "package.second:make"):
        told: list[dict[str, str]] = []

        def work(spec: str = spec, told: list[dict[str, str]] = told) -> None:
            told.append(make_environment({}))
            user_models.resolve_spec(spec)
            told.append(make_environment({}))

        assert run_command(work, ["bench"]) == 0
        assert [each[named_code.VARIABLE] for each in told] == ["", spec]
        assert named_code.get_code() is None
    assert os.environ[named_code.VARIABLE] == "package.outer:make"


def test_a_verdict_of_no_rows_is_empty() -> None:
    assert Outcome(rows=[]).describe()["verdict"] == state_verdict([]) == ""
