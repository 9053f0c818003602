"""NNCF, in a process of its own as `test_openvino.py`, which says why."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress import runtimes


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("nncf", "openvino")),
    reason="the packages nncf and openvino are not both installed",
)
def test_nncf() -> None:
    checks = Path(__file__).with_name("nncf_checks.py")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", str(checks)]
    environment = {**os.environ, **runtimes.describe("nncf").environment}  # nothing is reported to anybody
    done = subprocess.run(command, cwd=checks.parents[1], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
