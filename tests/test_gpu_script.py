"""`benchmarks/gpu.py` as it runs on a GPU, in small on a CPU; and that a step harms no other."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

SCRIPT = """
import os, signal, sys, time
sys.path[:0] = [{root!r}, {benchmarks!r}]
from pathlib import Path
import steps

def fail(_): raise ValueError("first\\nsecond")
def leave(_): raise steps.LeftOut("nothing to do")
def crash(_): os.kill(os.getpid(), signal.SIGSEGV)
def hang(_): time.sleep(60)
def break_device(_): raise RuntimeError("CUDA error: an illegal memory access was encountered")
def tell_process(seconds): print("chatter"); return {{"pid": os.getpid(), "seconds": seconds}}

TABLE = dict(one=tell_process, fail=fail, leave=leave, two=tell_process, crash=crash, three=tell_process, hang=hang)
TABLE |= dict(broken=break_device, four=tell_process, long=tell_process, lacking=tell_process, last=tell_process)
if sys.argv[1:] == ["--serve"]:
    steps.serve(TABLE)
else:
    limits = dict(hang=dict(limit_s=0.2), long=dict(least_s=1000), lacking=dict(needs=("nothing",)))
    limits["last"] = dict(least_s=50, reserved=True)
    listed = [steps.Step(name, **limits.get(name, {{}})) for name in TABLE]
    command = [sys.executable, __file__, "--serve"]
    steps.run(listed, command, Path.cwd(), 500, {{"nothing": "it is not here"}}, lambda record: None)
"""


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_a_step_harms_no_other_and_what_passed_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), benchmarks=str(ROOT / "benchmarks")))
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True, timeout=60)
    records = {each["step"]: each for each in read(tmp_path)}
    assert {name: each["error"] for name, each in records.items() if each["status"] == "fail"} == {
        "fail": "ValueError: first",
        "crash": "its process was ended by SIGSEGV",
        "hang": "not done after 0 s",
        "broken": "RuntimeError: CUDA error: an illegal memory access was encountered",
    }
    left = {name: each["error"] for name, each in records.items() if each["status"] == "left out"}
    assert left.pop("long").endswith("s were left, and it needs 1000")
    assert left == {"leave": "nothing to do", "lacking": "it is not here"}
    passed = {name: each["facts"] for name, each in records.items() if each["status"] == "pass"}
    pids = [passed[name]["pid"] for name in ("one", "two", "three", "four", "last")]
    same = [first == second for first, second in itertools.pairwise(pids)]  # process as the step before
    assert same == [True, False, False, True]
    assert passed["one"]["seconds"] < 450 < passed["last"]["seconds"]  # what was reserved
    assert "chatter" in (tmp_path / "log.txt").read_text()
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True, timeout=60)
    assert Counter(each["step"] for each in read(tmp_path)) == {name: 1 if name in passed else 2 for name in records}


def test_the_whole_in_small(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    for split in ("train", "test"):
        for label in "ab":
            (place := tmp_path / "images" / split / label).mkdir(parents=True)
            for index in range(4):
                Image.fromarray(np.full((32, 32, 3), 50 * index, np.uint8)).save(place / f"{index}.png")
    run("archive.py", tmp_path / "images", tmp_path / "images.npz")
    out, options = tmp_path / "out", ["--miniature", "--threads", "1", "--images", tmp_path / "images.npz"]
    run("gpu.py", "--out", out, *options)
    records = read(out)
    assert {each["step"]: each["error"] for each in records if each["status"] != "pass"} == {}
    kinds = Counter(each["step"].split(" ")[0].strip(":") for each in records)
    assert kinds == {"doctor": 1, "infer": 12, "train": 11, "rows": 1, "timing": 2, "training": 2}
    facts = {each["step"]: each["facts"] for each in records}
    assert {facts[name]["largest_error"] for name in facts if name.startswith("infer")} == {0}
    assert [row["name"] for row in facts["training against timm"]["rows"]].count("timm bf16") == 1
    assert facts["training CIFAR-10"]["steps"] == 3
    report = (out / "report.md").read_text()
    for text in ("29 pass, 0 fail, 0 left out", "tf32", "## tiny-numbers"):
        assert text in report
    again = run("gpu.py", "--out", out, *options)
    assert len(read(out)) == len(records)
    assert "pass " not in again


def run(script: str, *args: object) -> str:
    command = [sys.executable, f"benchmarks/{script}", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
