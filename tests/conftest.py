"""What tests share: a tiny configuration, and one run directory that the real command line made from it."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the processors, and so does what they start
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of hundreds of processes would compile the package: 0.6 s of 4
if "PYTEST_XDIST_WORKER" not in os.environ:  # what this machine remembers of its user is neither read nor changed
    cache = tempfile.TemporaryDirectory(prefix="compress_tests_")
    os.environ["XDG_CACHE_HOME"] = cache.name

import torch
from filelock import FileLock

import reports
from compress.quantization.products import multiplies_exactly

gc.freeze()  # what these imports made is never garbage; looking through it again and again takes time
ROOT = Path(__file__).resolve().parents[1]
MADE = [  # variant, runtime and numbers of the rows of `run`
    ("vit", "torch", "fp32"),
    ("vit", "onnxruntime", "fp32"),
    ("avit", "torch", "fp32"),
    ("avit", "onnxruntime", "fp32"),
    *([("avit_int8", "torch", "int8")] if multiplies_exactly(torch.device("cpu")) else []),  # not without VNNI
    ("avit_int8", "onnxruntime", "int8"),
]

TINY = """\
variants = ["vit", "avit", "avit_int8"]
calibration_images = 64

[model]
image_size = 8
patch_size = 2
dim = 32
depth = 2
heads = 2
mlp_dim = 64
tokenizer = "conv"

[train]
epochs = 8
batch_size = 64
lr = 4e-3
warmup_epochs = 1
ema = 0.9

[finetune]
epochs = 2
batch_size = 64
lr = 2e-3
warmup_epochs = 0.2
ema = 0.9
"""


# What takes longest begins first, so that no worker is left alone with it; the first one also makes `run`.
LONG = ("test_adding_a_column.py", "test_openvino.py", "test_nncf.py", "test_benchmarks.py", "test_distributed.py")
LONG += ("test_search.py", "test_gpu_script.py", "test_verbs_on_cuda.py")
LONG += ("test_quantize_interrupted.py", "test_fuzz.py", "test_resilience.py", "test_readme.py", "test_plain.py")
LONG += ("test_quantize.py", "test_python_docs.py", "test_commands.py", "test_notebooks.py", "test_export.py")
LONG += ("test_methods.py", "test_user_models.py", "test_prune.py", "test_adding_a_runtime.py", "test_geometries.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=3000, help="how many damaged files tests/test_fuzz.py reads")


@dataclass(frozen=True)
class Run:
    """A finished bench."""

    out: Path
    args: list[str]  # of `compress bench`; the same again repeats it
    stdout: str

    def checkpoint(self, variant: str = "vit") -> Path:
        return next(self.out.glob(f"models/{variant}-*/best_{variant}_model.pth"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose bench takes seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python run_bench.py ...` in a process of its own."""

    def start(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "run_bench.py", *args]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    return start


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of this process are text alone: drawing takes seconds, and most tests look at rows."""
    monkeypatch.setattr(reports, "plot_files", lambda _rows: {})
    monkeypatch.setattr(reports, "pictures", lambda _rows: {})


@pytest.fixture(scope="session")
def run(
    tiny: Path, script: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """vit, avit and avit_int8, trained, compressed and measured on the CPU; not to be changed."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bench"  # one for all workers
    folder.mkdir(exist_ok=True)
    args = ["--config", str(folder / "tiny.toml"), "--device", "cpu", "--batch-size", "4", "--threads", "1"]
    args += ["--seconds", "0.1", "--no-plain", "--out", str(folder / "run")]
    said = folder / "stdout.txt"
    with FileLock(folder / "lock"):
        if not said.exists():
            shutil.copy(tiny, folder / "tiny.toml")
            done = script(*args)
            assert (done.returncode, done.stderr) == (0, "")
            said.write_text(done.stdout)
    return Run(folder / "run", args, said.read_text())
