"""What runtimes say of themselves, and graphs for one batch size."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from conftest import ROOT

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import runtimes
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters.onnx import export_onnx
from compress.runtimes.client import Worker
from compress.runtimes.graph_files import fix_batch, fixed_batch, read_graph_file

CONFIG = ViTConfig(image_size=(8, 8), channels=1, patch_size=2, dim=16, depth=1, heads=2, mlp_dim=32)
IMAGES = torch.randn(10, 1, 8, 8)


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(CONFIG).eval()


@pytest.fixture(scope="module")
def free_graph(model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a graph that takes batches of any size; not to be changed."""
    return export(model, tmp_path_factory.mktemp("free") / "free.onnx")


def export(model: VisionTransformer, path: Path, batch_size: int | None = None) -> Path:
    content = Checkpoint(CONFIG, (), model.state_dict(), "noise", tuple("0123456789"), (0.5,), (0.25,))
    parity = export_onnx(model, path, IMAGES, content, batch_size)
    assert parity.n_images == 10
    return path


def test_asking_the_registry_imports_no_engine() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom compress import runtimes\n"
        "runtimes.list_packages(), runtimes.find_openers(Path('a.xml')), runtimes.count_bytes(Path(sys.executable))\n"
        "for each in runtimes.describe_all(): each.missing_packages(), each.batch_shapes, each.fallback_dtypes\n"
        "print(sys.modules.keys() & {'torch', 'onnx', 'onnxruntime', 'openvino', 'openvino_telemetry', 'nncf'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_what_is_not_installed_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.describe("nncf"), "packages", ("nncf", "no_such_package"), raising=False)
    with pytest.raises(InputError, match=r"no_such_package is not installed; .*: pip install nncf no_such_package$"):
        runtimes.get("nncf")
    with pytest.raises(InputError, match="'tflite' is not known; choose from torch, "):
        runtimes.get("tflite")


def test_files_beside_an_artifact_belong_to_it(tmp_path: Path) -> None:
    for name in ("a.xml", "a.bin", "b.onnx", "b.onnx.data", "c.onnx", "c.bin", "d.nncf.xml", "d.nncf.bin"):
        (tmp_path / name).write_bytes(b"12345")
    for name, count in (("a.xml", 2), ("b.onnx", 2), ("c.onnx", 1), ("d.nncf.xml", 2)):
        assert runtimes.count_bytes(tmp_path / name) == 5 * count


@torch.inference_mode()
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_file_fixed_to_a_batch_size_takes_no_other(
    model: VisionTransformer, free_graph: Path, tmp_path: Path, batch_size: int
) -> None:
    fixed = export(model, tmp_path / "fixed.onnx", batch_size)
    fix_batch(free_graph, tmp_path / "later.onnx", batch_size)
    assert onnx.load(tmp_path / "later.onnx") == onnx.load(fixed)
    assert (fixed_batch(free_graph), fixed_batch(fixed), fixed_batch(tmp_path / "a.pth")) == (None, batch_size, None)
    assert read_graph_file(fixed).metadata == read_graph_file(free_graph).metadata
    runtime, images = runtimes.get("onnxruntime"), IMAGES[:batch_size]
    for path, size in ((free_graph, batch_size), (fixed, None), (fixed, batch_size)):
        session = runtime.load(path, "cpu", 1, size)
        logits = session.get(session.run(session.put(images.numpy())))
        assert torch.allclose(torch.from_numpy(logits), model(images), atol=1e-5)
        assert runtime.inspect(path, size) == runtimes.Inspection("fp32")
    with pytest.raises(RuntimeError, match=f"takes batches of {batch_size} alone, not of 3"):
        runtime.load(fixed, "cpu", 1, 3)
    with pytest.raises(InputError, match=f"takes batches of {batch_size} alone"):
        fix_batch(fixed, tmp_path / "again.onnx", 3)


def test_a_graph_whose_batch_has_another_name_is_fixed_too(free_graph: Path, tmp_path: Path) -> None:
    proto = onnx.load(free_graph)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.save(proto, path := tmp_path / "foreign.onnx")
    assert runtimes.get("onnxruntime").load(path, "cpu", 1, 2).session.get_inputs()[0].shape[0] == 2  # type: ignore[attr-defined]


@torch.inference_mode()
def test_openvino_files_are_fixed_and_nobody_is_told(
    model: VisionTransformer, free_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino_telemetry")
    from compress.runtimes.openvino_export import convert_file

    monkeypatch.setenv("HOME", str(tmp_path))  # where its telemetry keeps whom it told of
    free, fixed = tmp_path / "free.xml", tmp_path / "fixed.xml"
    convert_file(free_graph, free)
    fix_batch(free, fixed, 4)
    assert (fixed_batch(free), fixed_batch(fixed)) == (None, 4)
    assert read_graph_file(fixed).metadata == read_graph_file(free_graph).metadata
    for path, size in ((free, 4), (fixed, None)):
        with Worker.start("openvino", path, "cpu", 1, size) as worker:
            logits = torch.from_numpy(worker.logits(IMAGES[:4].numpy()))
            assert torch.allclose(logits, model(IMAGES[:4]), atol=1e-4)
            assert worker.inspect() == runtimes.Inspection("fp32")
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "fixed.bin", "fixed.xml", "free.bin", "free.xml"
    ]  # fmt: skip
