"""ONNX files whose weights lie beside them, as those of 2 GiB and more must; here the limit is a few kilobytes."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from baselines.errors import InputError
from baselines.vit import VisionTransformer, ViTConfig
from compress import runtimes, variant
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import Checkpoint
from compress.checkpoints.graph_files import check_onnx
from compress.cli import main
from compress.exporters import external
from compress.exporters import onnx as exporter
from compress.exporters.onnx import ParityError
from compress.methods import Int8
from compress.runtimes import BuildInputs, ort_graph
from compress.runtimes.graph_files import fix_batch, read_graph_file, relabel
from compress.training import finetuning

CONFIG = ViTConfig(image_size=(16, 16), patch_size=4, dim=32, depth=2, heads=2, mlp_dim=48, classes=3)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that is too large for one file."""
    monkeypatch.setattr(external, "LARGEST_INSIDE", 4096)
    torch.manual_seed(0)
    model = VisionTransformer(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    content = Checkpoint(CONFIG, (), model.state_dict(), "", ("cat", "dog", "eel"), (0.5,) * 3, (0.5,) * 3, origin={})
    checkpoint.save(tmp_path / "vit.pth", content)
    return tmp_path / "vit.pth"


def answer(path: Path, images: np.ndarray) -> Any:
    return onnxruntime.InferenceSession(path).run(None, {"images": images})[0]


def listed(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_weights_lie_beside_the_graph_and_move_with_it(source: Path, tmp_path: Path) -> None:
    assert main(["export", str(source), "--out", str(tmp_path / "out" / "large.onnx")]) == 0
    path, folder = tmp_path / "out" / "large.onnx", tmp_path / "out"
    assert listed(folder) == {"large.onnx", "large.onnx.data", "large.onnx.json"}
    parameters = sum(value.numel() for value in checkpoint.load(source).state.values())
    assert path.stat().st_size < (folder / "large.onnx.data").stat().st_size >= 0.9 * 4 * parameters
    assert runtimes.count_bytes(path) > 4 * parameters
    images = torch.randn(4, 3, 16, 16)
    model = VisionTransformer(CONFIG).eval()
    model.load_state_dict(checkpoint.load(source).state)
    expected = model(images).detach().numpy()
    np.testing.assert_allclose(answer(path, images.numpy()), expected, atol=1e-4)
    assert ort_graph.inspect(path).executed == "fp32"
    (moved := tmp_path / "moved").mkdir()
    for each in runtimes.list_files(path):
        each.replace(moved / each.name)
    np.testing.assert_allclose(answer(moved / "large.onnx", images.numpy()), expected, atol=1e-4)


def test_openvino_takes_them(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert main(["export", str(source), "--to", "openvino", "--out", str(tmp_path / "out" / "large.xml")]) == 0
    assert listed(tmp_path / "out") == {"large.xml", "large.bin", "large.xml.json"}


def test_a_graph_that_is_written_again_takes_its_weights_along(source: Path, tmp_path: Path) -> None:
    path, images = tmp_path / "large.onnx", np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
    assert main(["export", str(source), "--out", str(path)]) == 0
    (other := tmp_path / "other").mkdir()
    relabel(path, other / "told.onnx", {"runtime": '"onnxruntime"'})
    fix_batch(other / "told.onnx", other / "fixed.onnx", 2)
    fix_batch(other / "told.onnx", other / "told.onnx", 2)  # in its own place
    expected = answer(path, images)
    for each in runtimes.list_files(path):
        each.unlink()
    for name in ("told", "fixed"):
        made = read_graph_file(other / f"{name}.onnx")
        assert (made.batch_size, made.metadata["runtime"]) == (2, '"onnxruntime"')
        np.testing.assert_allclose(answer(other / f"{name}.onnx", images), expected, atol=1e-5)


def test_integers_of_it_stay_in_one_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "LARGEST_INSIDE", 4 * 2 * 32 * (4 * 32 + 2 * 48) - 1)  # its Linear layers in float
    path = tmp_path / "int8.onnx"
    content = checkpoint.load(source)
    model = VisionTransformer(CONFIG).eval()
    model.load_state_dict(content.state)
    which = runtimes.get("onnxruntime")
    images, method = torch.randn(16, 3, 16, 16), Int8()
    calibrated = finetuning.calibrate(variant.prepare(model, [method]), [method], [images], torch.device("cpu"))
    which.build(BuildInputs(calibrated, variant.Variant((method,)), content, images, [images]), path)
    assert listed(tmp_path) == {"vit.pth", "int8.onnx"}
    proto = onnx.load(path)
    assert exporter.has_integers(proto)


def test_nothing_is_left_where_the_graph_disagrees(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(*_given: Any, **_more: Any) -> None:
        raise ParityError("no")

    monkeypatch.setattr(exporter, "compare_logits", disagree)
    with pytest.raises(ParityError):
        export_to(source, tmp_path / "out" / "large.onnx")
    assert listed(tmp_path / "out") == set()


def export_to(source: Path, path: Path) -> None:
    content = checkpoint.load(source)
    model = VisionTransformer(CONFIG).eval()
    model.load_state_dict(content.state)
    exporter.export_onnx(model, path, torch.randn(16, 3, 16, 16), content)


def test_weights_that_are_elsewhere_or_cut_short_are_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    export_to(source, path)
    check_onnx(path)
    data = external.locate_weights(path)
    whole = data.read_bytes()
    data.write_bytes(whole[:-4096])
    with pytest.raises(InputError, match=r"large\.onnx\.data is shorter than large\.onnx says"):
        read_graph_file(path)
    data.unlink()
    with pytest.raises(InputError, match=r"lacks its weights, large\.onnx\.data"):
        read_graph_file(path)
    (tmp_path / "secret").write_bytes(whole)
    proto = onnx.load(path, load_external_data=False)
    for entry in (entry for each in proto.graph.initializer for entry in each.external_data if entry.key == "location"):
        entry.value = "../secret"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match="asks for a file outside its own folder"):
        read_graph_file(path)
