"""OpenVINO, in a process of its own: beside torch and ONNX Runtime it broke the tests that came later (docs/log.md)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress import runtimes


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="the package openvino is not installed")
def test_openvino() -> None:
    checks = Path(__file__).with_name("openvino_checks.py")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", str(checks)]
    environment = {**os.environ, **runtimes.describe("openvino").environment}  # nothing is reported to anybody
    done = subprocess.run(command, cwd=checks.parents[1], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
