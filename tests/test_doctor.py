"""`compress doctor`: what it reads is what is there, and what is broken does not break it."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Run
from rich.console import Console

from baselines.errors import InputError
from baselines.macs import dense_macs, linear_macs
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.checkpoints.checkpoint import Checkpoint, save
from compress.cli import processes
from compress.cli.groups import MachineOptions
from compress.doctor import artifact, comparison, cuda, engines, machine, reasons
from compress.doctor.engines import Found
from compress.doctor.overview import doctor
from compress.exporters.onnx import export_onnx
from compress.measure import limits
from compress.measure.environment import available_cpus
from compress.methods import Int8
from compress.quantization.products import multiplies_exactly
from compress.runtimes.ort_graph import Kernel, make_example, profile
from compress.tables import Findings

CONFIG = ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=32, depth=2, heads=2, mlp_dim=72, tokenizer="conv")
ROOT = Path(__file__).resolve().parents[1]


def console() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=300), text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a.onnx`, `a.int8.onnx`, and the int8 checkpoint `a.pth`."""
    torch.manual_seed(0)
    folder, images = tmp_path_factory.mktemp("doctor"), torch.randn(24, 1, 8, 8)
    model = VisionTransformer(CONFIG).eval()
    model.head.bias.data[3] = 5.0
    quantised = variant.prepare(model, [Int8()])
    Int8().calibrate(quantised, [images])
    for name, each, methods in (("a", model, []), ("a.int8", quantised, [Int8()])):
        shipped = variant.convert(each, methods)
        described = tuple({"name": method.name, **method.model_dump()} for method in methods)
        classes = tuple("0123456789")
        content = Checkpoint(CONFIG, described, each.state_dict(), "digits", classes, (0.3,), (0.4,))
        export_onnx(shipped, folder / f"{name}.onnx", images, content)
        save(folder / "a.pth", content)
    return folder


def test_an_int8_file_is_compared_with_its_float_one_and_what_limits_it_is_said(folder: Path) -> None:
    screen, text = console()
    artifact.examine(folder / "a.int8.onnx", 1, 2, ["onnxruntime"], Findings(screen))
    shown = text.getvalue()
    share = CONFIG.depth * CONFIG.tokens * linear_macs(CONFIG) / dense_macs(CONFIG)
    assert f"{share:.1%}" in shown
    assert f"{dense_macs(CONFIG):,}" in shown
    assert f"a.int8.onnx against {folder / 'a.onnx'}, batch 2 of random input" in shown
    assert "why it is not faster than a.onnx in onnxruntime" in shown or "though it is faster than a.onnx" in shown
    assert "4 of 8 integer products are not a multiple of 16 wide" in shown  # mlp_dim 72
    assert "8 of 8 integer products have fewer than 1 million MACs at batch 2 (the smallest 34,816)" in shown
    assert f"{1 - share:.1%} of the MACs are not quantized" in shown


def test_a_float_file_is_not_asked_why(folder: Path) -> None:
    screen, text = console()
    artifact.examine(folder / "a.onnx", 1, 1, ["onnxruntime"], Findings(screen))
    assert "fp32" in text.getvalue()
    assert "MatMul" in text.getvalue()
    assert "bottlenecks" not in text.getvalue()
    assert "against" not in text.getvalue()


def test_a_checkpoint_tells_its_geometry_and_what_torch_does_with_it(folder: Path) -> None:
    screen, text = console()
    artifact.examine(folder / "a.pth", 1, 1, ["torch", "onnxruntime"], Findings(screen))
    assert "2, 32, 2, 72" in text.getvalue()
    executed = next(line for line in text.getvalue().splitlines() if "torch" in line and "int8" in line)
    assert ("int8-simulated" in executed) == (not multiplies_exactly(torch.device("cpu")))
    assert f"compress export {folder / 'a.pth'}" in text.getvalue()


def test_the_whole_of_it_on_a_finished_bench(run: Run) -> None:
    path = next(run.out.glob("models/avit_int8-*/avit_int8.onnx"))
    screen, text = console()
    assert doctor(path, 1, screen).exit_code == 0
    assert f"avit_int8.onnx against {next(run.out.resolve().glob('models/avit-*/avit.onnx'))}" in text.getvalue()
    for heading in ("machine", "engines", "CUDA", "dtypes of avit_int8.onnx by engine"):
        assert heading in text.getvalue()


def test_a_foreign_file_with_a_hostile_name_and_nodes(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["n", 48])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 10])
    weight = onnx.numpy_helper.from_array(np.ones((48, 10), np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["pixels", "w"], ["y"], name="[bold]<script>\n")
    graph = onnx.helper.make_graph([node], "foreign", [x], [y], [weight])
    path = tmp_path / "[red]m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    screen, text = console()
    artifact.examine(path, 1, 1, ["onnxruntime"], Findings(screen))
    assert "[red]m.onnx" in text.getvalue()
    assert "not exported by compress" in text.getvalue()
    (kernel,) = profile(path, make_example(path, 3), calls=2)
    assert (kernel.macs, kernel.inner, kernel.columns, kernel.integer) == (3 * 48 * 10, 48, 10, False)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.onnx", None, "there is no such file"),
        ("empty.onnx", b"", "is empty"),
        ("text.onnx", b"hello, world", "no ONNX file"),
        ("rows.csv", b"a,b", "neither an .onnx file nor a .pth checkpoint"),
        ("bad.pth", b"hello, world", "damaged"),
    ],
)
def test_bad_files_get_one_sentence(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        artifact.examine(path, 1, 1, ["onnxruntime"], Findings(console()[0]))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_file_cut_short(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        doctor(folder, 1, console()[0])
    whole = (folder / "a.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no ONNX file"):
        artifact.examine(tmp_path / "cut.onnx", 1, 1, ["onnxruntime"], Findings(console()[0]))


def test_images_of_unknown_size_are_refused(tmp_path: Path) -> None:
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "free", [x], [y])
    path = tmp_path / "free.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    with pytest.raises(InputError, match="the size of its images is free"):
        artifact.examine(path, 1, 1, ["onnxruntime"], Findings(console()[0]))


def test_the_float_file_of_an_int8_file(tmp_path: Path) -> None:
    for name in ("m/a.onnx", "models/vit-1/vit.onnx", "models/avit-1/avit.onnx", "models/avit-2/avit.onnx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / "models/avit-1/avit.onnx", (1, 1))
    for name, expected in {
        "m/a.int8.onnx": ["m/a.onnx"],
        "m/a_int8.onnx": ["m/a.onnx"],
        "m/b.int8.onnx": [],
        "models/int8-9/int8.onnx": ["models/vit-1/vit.onnx"],
        "models/avit_int8-9/avit_int8.onnx": ["models/avit-2/avit.onnx", "models/avit-1/avit.onnx"],
    }.items():
        assert comparison.list_sources(tmp_path / name) == [tmp_path / each for each in expected], name


def test_a_float_file_of_another_model_is_no_counterpart(folder: Path, tmp_path: Path) -> None:
    quantised = tmp_path / "b.int8.onnx"
    quantised.write_bytes((folder / "a.int8.onnx").read_bytes())
    images = make_example(quantised)
    kernels = profile(quantised, images)
    (tmp_path / "b.onnx").write_bytes(b"damaged")
    assert comparison.find_source(quantised, images, kernels, 1) is None
    (tmp_path / "b.onnx").write_bytes(quantised.read_bytes())
    assert comparison.find_source(quantised, images, kernels, 1) is None
    (tmp_path / "b.onnx").write_bytes((folder / "a.onnx").read_bytes())
    assert comparison.find_source(quantised, images, kernels, 1) == tmp_path / "b.onnx"


def test_bounds_are_amdahls() -> None:
    after = [Kernel("p", "QGemm", 0.3, 5_000_000, True, 64, 64), Kernel("e", "Add", 0.7, 0, False)]
    before = [Kernel("p", "Gemm", 0.75, 5_000_000, False, 64, 64), Kernel("e", "Add", 0.25, 0, False)]
    said = reasons._bounds(after, before)
    assert "take 75% of the time of the float file: faster products alone can give at most 4.00x" in said[0]
    assert "take 30% of the time now; making them infinitely fast would give at most 1.43x more" in said[1]
    assert len(said) == 2
    assert reasons.time_by_op(after) == [("Add", "70%", "700 ms", "1"), ("QGemm (integer)", "30%", "300 ms", "1")]


def test_what_follows_from_the_instructions() -> None:
    told = {label: here for label, here, _ in machine.instructions(frozenset({"avx2", "amx_int8"}))}
    assert (told["AVX2"], told["AVX-512 VNNI"], told["AMX-int8"]) == ("yes", "no", "yes")
    assert "together" not in told
    assert machine.instructions(frozenset({"avx2", "avx512f"}))[-1][0] == "together"
    told = {label: here for label, here, _ in machine.instructions(frozenset({"asimd", "asimddp"}))}
    assert told == {"dotprod": "yes", "i8mm": "no", "bf16": "no"}
    assert machine.instructions(frozenset()) == []


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_limits_of_control_groups_version_2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/outer/inner"
    write(tmp_path, {"proc/self/cgroup": "0::/outer/inner\n", f"{group}/cpu.max": "max 100000\n"})
    assert limits.cpu_quota(tmp_path) is None
    write(tmp_path, {"sys/fs/cgroup/outer/cpu.max": "50000 100000\n", f"{group}/memory.max": "1000000\n"})
    write(tmp_path, {"sys/fs/cgroup/outer/cpu.stat": "nr_periods 9\nnr_throttled 7\n"})
    assert limits.cpu_quota(tmp_path) == 0.5
    assert limits.memory_limit(tmp_path) == 1_000_000
    assert ("stopped by the quota", "7 times so far: timings of that time are too long") in machine.processor(tmp_path)


def test_limits_of_control_groups_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/cpu,cpuacct/docker/x"
    write(tmp_path, {"proc/self/cgroup": "3:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/\n"})
    write(tmp_path, {f"{group}/cpu.cfs_quota_us": "-1", f"{group}/cpu.cfs_period_us": "100000"})
    assert limits.cpu_quota(tmp_path) is None
    write(tmp_path, {f"{group}/cpu.cfs_quota_us": "300000"})
    write(tmp_path, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000000"})
    assert limits.cpu_quota(tmp_path) == 3
    assert machine.memory(tmp_path)[1:] == [("memory of the container", "at most 2.0 GB")]


CFS = "sys/fs/cgroup/cpu,cpuacct/cpu.cfs"
VERSION_1 = {"proc/self/cgroup": "2:cpu,cpuacct:/docker/x\n0::/\n", f"{CFS}_quota_us": "{}", f"{CFS}_period_us": "100"}
VERSION_2 = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "{} 100\n"}


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2], ids=["version 1", "version 2"])
@pytest.mark.parametrize(
    ("quota", "local", "expected"), [(100, 1, 1), (250, 1, 2), (20, 1, 1), (900, 1, 4), (300, 2, 1)]
)
def test_default_threads_respect_affinity_and_quota(
    files: dict[str, str], quota: int, local: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {name: text.format(quota) for name, text in files.items()})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(processes, "available_cpus", lambda: available_cpus(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    assert MachineOptions().processors == expected
    assert MachineOptions(threads=3).processors == 3


def test_clock_heat_and_load(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    write(tmp_path, {f"{cpu}/cpu{i}/cpufreq/scaling_governor": "powersave\n" for i in range(2)})
    write(tmp_path, {f"{cpu}/cpu{i}/thermal_throttle/core_throttle_count": f"{i + 1}\n" for i in range(2)})
    rows = dict(machine.processor(tmp_path))
    assert rows["frequency governor"].startswith("powersave: ")
    assert rows["slowed by heat"].startswith("3 times")
    assert "busy" in machine.load(1.0, 2)
    assert "quiet" in machine.load(1.0, 64)
    assert [row[0] for row in machine.memory(tmp_path)] == ["memory"]


def test_gpus_and_who_else_uses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text('#!/bin/sh\ncase "$1" in *driver*) echo 580.1;; *) echo "4242, /usr/bin/other";; esac\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert cuda.others() == ["the GPU is also used by other (4242): timings on cuda will be noisy"]
    gpu = {"name": "G", "total": 80e9, "free": 20e9}
    cores = {(6, 1): "fp16 at most", (7, 5): "int8", (8, 0): "bf16, int8", (9, 0): "bf16, int8, fp8"}
    for capability, kinds in cores.items():
        facts = {"cuda": "13.0", "devices": [{**gpu, "capability": list(capability)}]}
        rows = dict(cuda.rows(Found("torch", "2.14", works=True, facts=facts)))
        assert rows["device 0"].endswith(f"80.0 GB, 20.0 GB free; tensor cores for {kinds}")
        assert (rows["driver"], rows["runtime"]) == ("580.1", "CUDA 13.0")
    rows = dict(cuda.rows(Found("torch", "2.14", works=True, facts={"cuda": "13.0", "devices": []})))
    assert "none that torch can use, though torch 2.14 is built for CUDA 13.0" in rows["devices"]
    rows = dict(cuda.rows(Found("torch", "2.14", works=True, facts={"cuda": None, "devices": []})))
    assert "built without CUDA; there is an NVIDIA GPU" in rows["devices"]


def test_a_broken_engine_is_reported_and_breaks_nothing_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('[red]libfoo.so is missing')\n")
    code = (
        "import sys\nfrom pathlib import Path\nfrom rich.console import Console\n"
        "from compress.doctor import engines\nfrom compress.doctor.overview import doctor\n"
        "probe = engines.probe\nengines.probe = lambda: probe(['torch', 'onnxruntime'])\n"
        "sys.exit(doctor(Path(sys.argv[1]), 1, Console(width=300)).exit_code)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_PROC_BIND": "close"}
    command = [sys.executable, "-c", code, str(folder / "a.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    lines = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("│")}
    assert "RuntimeError: [red]libfoo.so is missing" in lines["onnxruntime"]
    assert "yes" in lines["torch"]
    assert "close" in lines["OMP_PROC_BIND"]
    assert "pip install --force-reinstall --no-deps onnxruntime==" in done.stdout
    assert "not inspected: that needs onnxruntime" in done.stdout


def installed(folder: Path, name: str, version: str, *requires: str) -> None:
    """A package as pip notes it down."""
    place = folder / f"{name.replace(chr(45), chr(95))}-{version}.dist-info"
    place.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (place / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("torch_version", "expected"),
    [
        ("2.13.0+cpu", "torchvision==0.28.0 --index-url https://download.pytorch.org/whl/cpu"),
        (
            "2.12.0",
            "made for torch==2.13.0; run: pip install --force-reinstall 'torch<2.15,>=2.11' 'torchvision>=0.26'",
        ),
    ],
)
def test_torchvision_beside_a_torch_it_was_not_built_for(
    torch_version: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "torch", torch_version)
    installed(tmp_path, "torchvision", "0.28.0", "numpy", "torch==2.13.0")
    installed(tmp_path, "numpy", "1.0")
    installed(
        tmp_path, "compress-vit", "9", "torch>=2.11,<2.15", "torchvision>=0.26", "numpy>=1.26", "zz>1; extra == 'x'"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    fault = "RuntimeError: operator torchvision::nms does not exist"
    found = {
        "torch": Found("torch", torch_version, works=True),
        "torchvision": Found("torchvision", "0.28.0", works=False, error=fault),
    }
    (said,) = engines.repairs(found)
    assert f"torchvision 0.28.0 does not fit torch {torch_version} ({fault})" in said
    assert said.endswith(expected)
    assert engines.unsuitable_versions() == [
        "numpy 1.0 is outside >=1.26, which compress asks for; run: pip install 'numpy>=1.26'"
    ]


def test_settings_of_the_user_are_told_and_those_of_compress_are_not() -> None:
    given = {"OMP_NUM_THREADS": "7", "GOMP_SPINCOUNT": "10000", "HOME": "/"}
    assert [row[:2] for row in engines.settings(given)] == [("OMP_NUM_THREADS", "7")]
    assert [row[:2] for row in engines.settings({"GOMP_SPINCOUNT": "5"})] == [("GOMP_SPINCOUNT", "5")]
