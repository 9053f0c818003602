"""Thousands of files damaged at random: each is read, or refused with one sentence; nothing crashes, hangs or swells.

pytest tests/test_fuzz.py --fuzz 100000 tries more of them. One alone: python tests/fuzz_files.py FOLDER 1374 1375
"""

import collections
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def test_damaged_files(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    count, found = int(request.config.option.fuzz), dict[int, str]()
    while len(found) < count:  # again behind a file that ended the process
        folder = tmp_path / str(len(found))
        folder.mkdir()
        command = [sys.executable, "tests/fuzz_files.py", str(folder), str(len(found)), str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        lines = done.stdout.splitlines()
        assert lines, done.stderr
        for number, _, outcome in (line.partition(" ") for line in lines):
            found[int(number)] = outcome or f"the process ended with {done.returncode}: {done.stderr[-2000:]}"
    told = collections.Counter(found.values())
    assert {number: outcome for number, outcome in found.items() if outcome not in ("read", "refused", "whole")} == {}
    assert list(found) == list(range(count))
    assert told["read"] >= count // 50  # neither is all of it stopped at the door
    assert told["refused"] >= count // 2
