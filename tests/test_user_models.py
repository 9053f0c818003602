"""Architectures that compress does not know: code that the user names, and what then works on it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import Run
from made_rows import bare
from torch import Tensor, nn

from baselines.errors import InputError
from compress import cli, loading, variant
from compress.checkpoints import checkpoint, named_code, user_models
from compress.checkpoints.checkpoint import Checkpoint
from compress.exporters import operators as graph
from compress.exporters.onnx import export_onnx
from compress.importers import Hints
from compress.measure import cost
from compress.methods import METHODS, Bf16, Int8
from compress.runtimes import BuildInputs, get
from compress.variant import Variant
from reports import markdown_table, parse_rows
from reports.findings import findings
from reports.plots.style import BLACK, looks

NETS = """\
import timm, torch, torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

def resnet18():
    return torchvision.models.resnet18(num_classes=10)

def resnet10():
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)

def pvt():
    return timm.create_model("pvt_v2_b0", depths=(1, 1, 1, 1), num_classes=10)

def pvt_b0():
    return timm.create_model("pvt_v2_b0")

class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2),
                         nn.ReLU(), nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10))

def broken():
    raise ValueError("no weights here")

def maps():
    return nn.Conv2d(3, 8, 3)

def number():
    return 7
"""
SHARES = {"0": 8 * 9 * 64, "3": 16 * 8 * 9 * 9, "6": 144 * 32, "8": 320}  # MACs of the layers of `Small`


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a command names, it names for its own process and the ones it starts: here that is the tests'."""
    monkeypatch.setattr(named_code, "_spec", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "nets.py"
    path.write_text(NETS)
    return path


def made(nets: Path, name: str, size: int) -> tuple[user_models.Wrapped, Checkpoint]:
    """A model with the weights that its factory gives."""
    model, _, content = loading.restore(None, Hints(model=f"{nets}:{name}", image_size=(size, size)))
    channels, classes = model.config.channels, tuple(map(str, range(model.config.classes)))
    assert isinstance(model, user_models.Wrapped)
    return model, replace(content, classes=classes, dataset="noise", mean=(0.0,) * channels, std=(1.0,) * channels)


def test_work_is_that_of_the_published_models(nets: Path) -> None:
    blocks = [(64, 64, 56, 4), (64, 128, 28, 1), (128, 128, 28, 3), (128, 256, 14, 1), (256, 256, 14, 3)]
    blocks += [(256, 512, 7, 1), (512, 512, 7, 3)]  # 3 x 3 convolutions: channels, side of the outputs, how many
    closed = 64 * 3 * 7**2 * 112**2 + sum(9 * a * b * side**2 * count for a, b, side, count in blocks)
    closed += sum(a * 2 * a * side**2 for a, side in ((64, 28), (128, 14), (256, 7))) + 512 * 1000
    net, _ = made(nets, "resnet18", 224)
    found = cost.measure_cost(net, None)  # type: ignore[arg-type]  no image decides anything
    assert found.dense == closed - 512 * 990  # of ten classes
    assert found.params == sum(each.numel() for each in net.parameters())
    assert cost.count_with_libraries(found) == dict.fromkeys(
        ("torch FlopCounterMode", "fvcore", "thop"), float(found.dense)
    )
    model, _ = made(nets, "pvt_b0", 224)
    counted = cost.count_with_libraries(cost.measure_cost(model, None))  # type: ignore[arg-type]
    assert counted["torch FlopCounterMode"] == counted["fvcore"] == 566_065_664  # 0.57 G in the paper
    (told,) = cost.disagreements(counted)  # attention, which a function computes
    assert told.startswith("thop counts 527,956,992 MACs for one image, torch FlopCounterMode 566,065,664")


@pytest.mark.usefixtures("no_plots")
def test_rows_stand_beside_those_of_a_vit(
    run: Run, nets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.out, out := tmp_path / "run")
    where = ["--device", "cpu", "--batch-size", "4", "--threads", "1", "--seconds", "0.1", "--no-plain"]
    model = ["--model", f"{nets}:resnet10", "--image-size", "32", "--normalize", "data", "--data", "digits"]
    assert cli.main(["bench", *model, *where, "--runtime", "onnxruntime", "--out", str(out)]) == 0
    assert capfd.readouterr().err == ""
    rows = parse_rows((out / "rows.jsonl").read_text(), "rows")
    ours = {(row.variant, row.runtime): row for row in rows if row.base == "resnet10"}
    assert set(ours) == {("resnet10", "onnxruntime"), ("resnet10_int8", "onnxruntime")}
    dense, small = ours["resnet10", "onnxruntime"], ours["resnet10_int8", "onnxruntime"]
    assert (dense.dense, small.dense, dense.speedup) == (True, False, 1.0)
    assert (small.executed, dense.executed) == ("int8", "fp32")
    assert small.integer_share == 1.0
    assert small.file_bytes < 0.3 * dense.file_bytes  # type: ignore[operator]
    stage = 9 * (64 * 128 + 128 * 128) * 4**2 + 64 * 128 * 4**2  # the other two: twice the channels, half the sides
    closed = 3 * 64 * 7**2 * 16**2 + 2 * 9 * 64 * 64 * 8**2 + 3 * stage + 5120
    assert dense.macs_per_image == small.macs_per_image == closed
    assert (dense.ceiling, small.ceiling) == (1.0, 1.0)
    assert small.agreement is not None
    table = markdown_table(rows)
    assert table.count("###") == 1
    assert all(f"| {name} " in table for name in ("vit", "avit_int8", "resnet10", "resnet10_int8"))
    assert (out / "report.md").read_text().count("### digits, batch 4") == 1


def test_each_row_is_held_against_its_own_model() -> None:
    config = {"model": {"kind": "module", "name": "net"}}
    times = {"latency_samples_s": [0.01] * 9, "overall": 1.0, "overall_low": 0.9, "overall_high": 1.1}
    rows = [
        bare(**times, speedup=1.0),
        bare(variant="net", config=config, base="net", **times, speedup=1.0),
        bare(variant="net_bf16", config=config, base="net", methods=[{"name": "bf16"}], **times, speedup=1.2),
        bare(variant="net_int8", config=config, base="net", methods=[{"name": "int8"}], **times, speedup=1.5),
    ]
    assert [row.dense for row in rows] == [True, True, False, False]
    assert {name for name, look in looks(rows).items() if look["color"] == BLACK} == {"vit"}
    text = findings(rows)
    assert "A speed-up is against `vit` or net, on the same device" in text
    assert "Against the dense model in bfloat16 (**net_bf16**" in text


def test_onnx_gives_the_same_logits(nets: Path, tmp_path: Path) -> None:
    model, content = made(nets, "pvt", 64)
    images = torch.randn(10, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    parity = export_onnx(model, tmp_path / "pvt.onnx", images, content)
    assert (parity.n_images, parity.agreement, parity.close) == (10, 1.0, 1.0)
    assert parity.max_difference < 1e-5
    runtime, which = get("onnxruntime"), Variant((Int8(),), "pvt")
    described = replace(content, methods=tuple(which.describe()))
    runtime.build(BuildInputs(model, which, described, images, [images]), path := tmp_path / "pvt_int8.onnx")
    inspection = runtime.inspect(path)
    assert inspection.executed == "int8"
    assert 0.9 < inspection.integer_share < 1  # type: ignore[operator]  attention stays in float
    assert sqnr(path, tmp_path / "pvt.onnx", images) > 20


def sqnr(path: Path, reference: Path, images: Tensor) -> float:
    """Of logits in dB."""
    got, wanted = (
        session.get(session.run(session.put(images.numpy())))
        for session in (get("onnxruntime").load(each, "cpu", 1) for each in (path, reference))
    )
    return 10 * np.log10((wanted**2).mean() / ((got - wanted) ** 2).mean())


@pytest.mark.parametrize("name", ["onnxruntime", "nncf"])
def test_layers_stay_in_float_by_their_names_in_torch(name: str, nets: Path, tmp_path: Path) -> None:
    model, content = made(nets, "Small", 8)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    runtime, which = get(name), Variant((Int8(skip=("3", "6")),), "Small")
    described = replace(content, methods=tuple(which.describe()))
    runtime.build(BuildInputs(model, which, described, images, [images]), path := tmp_path / f"small{runtime.suffix}")
    inspection = runtime.inspect(path)
    assert inspection.executed == "int8"
    assert inspection.integer_share == pytest.approx(1 - (SHARES["3"] + SHARES["6"]) / sum(SHARES.values()))
    with pytest.raises(InputError, match="skip 'fc' fits no layer; the layers are 0, 3, 6, 8"):
        graph.find_products(onnx.ModelProto(), model.module, ["fc"])


def test_quantize_keeps_an_integer_file(nets: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = user_models.load_module(f"{nets}:Small")
    with torch.no_grad():
        module[8].weight.mul_(8)  # such that classes are no ties
    weights = {f"module._orig_mod.{name}": value for name, value in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": weights}, path := tmp_path / "small.pth")
    spec = ["--model", f"{nets}:Small"]
    known = [*spec, "--image-size", "8", "--normalize", "data", "--data", "digits"]
    quick = ["--threads", "1", "--seconds", "0.1", "--test-images", "60", "--runtime", "onnxruntime"]
    assert cli.main(["quantize", str(path), *known, *quick]) == 0
    capfd.readouterr()
    rows = parse_rows((tmp_path / "small-quantize" / "rows.jsonl").read_text(), "rows")
    assert [(row.variant, row.runtime, row.recipe) for row in rows] == [
        ("Small", "torch", None),
        ("Small", "onnxruntime", None),
        ("Small_int8", "onnxruntime", "static"),
    ]
    assert get("onnxruntime").inspect(path.with_suffix(".int8.onnx")).integer_share == 1.0
    assert cli.main(["export", str(path), *known]) == 0
    for option in (["--max-drop", "1"], ["--sensitivity"], ["--calibration-study"], ["--mode", "qat"]):
        assert cli.main(["quantize", str(path), *known, *option]) == 2
        assert f"{' '.join(option[: 1 + (option[0] == '--mode')])} is for Vision Transformers" in capfd.readouterr().err


def test_bf16_takes_and_gives_float32(nets: Path) -> None:
    model, _ = made(nets, "resnet10", 32)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    small = variant.prepare(model, [Bf16()])
    with torch.no_grad():
        got, wanted = small(images), model(images)
    assert (got.dtype, next(small.parameters()).dtype) == (torch.float32, torch.bfloat16)
    assert 0 < (got - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_methods_for_vision_transformers_refuse_in_a_sentence(nets: Path) -> None:
    model, _ = made(nets, "Small", 8)
    fitting = {name for name, method in METHODS.items() if method.anywhere}
    assert fitting == {"int8", "bf16"}
    for name in METHODS.keys() - fitting:
        with pytest.raises(InputError, match=rf"^{name} .* a Vision Transformer; Small of nets\.py is another arch"):
            variant.prepare(model, [variant.make_method(name, {})])
    with pytest.raises(InputError, match=r"^topk takes tokens out of a Vision Transformer"):
        variant.prepare(model, [variant.make_method("topk", {})])
    with pytest.raises(InputError, match="activations, attention and signed are for Vision Transformers"):
        variant.prepare(model, [Int8(activations="token")])


def test_code_runs_because_it_was_named_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "ran"
    (tmp_path / "canary.py").write_text(f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n{NETS}")
    monkeypatch.chdir(tmp_path)  # where its name alone would do
    spec = str(tmp_path / "canary.py") + ":Small"
    model, content = made(tmp_path / "canary.py", "Small", 8)
    checkpoint.save(path := tmp_path / "canary.pth", content)
    canary.unlink()
    user_models._import_code.cache_clear()
    config = checkpoint.load(path).config
    assert isinstance(config, user_models.ModuleConfig)
    assert config.factory == "canary.py:Small"
    for verb in (["inspect"], ["quantize"], ["export"], ["prune"], ["bench", "--checkpoint"]):
        code, said = (
            cli.main([*verb, str(path), *(["--data", "digits"] if verb[0] == "bench" else [])]),
            capfd.readouterr(),
        )
        assert code == (0 if verb == ["inspect"] else 2)
        assert "canary.py:Small" in said.out + said.err
        assert "runs only where you name it" in said.err or verb == ["inspect"]
    assert not canary.exists()
    restored = loading.restore(path, Hints(model=spec))[0]
    assert canary.exists()
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(restored(images), model.eval()(images))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda state: state.pop("8.bias"), "it lacks 8.bias;", id="missing"),
        pytest.param(lambda state: state.update(more=torch.ones(2)), "it also holds more;", id="further"),
        pytest.param(lambda state: state.update({"8.bias": torch.ones(3)}), "8.bias is 3 and not 10;", id="other size"),
        pytest.param(lambda state: state["8.bias"].fill_(np.nan), "8.bias holds values that are not", id="not finite"),
    ],
)
def test_weights_of_another_model_are_refused(
    change: Callable[[dict[str, Tensor]], object], said: str, nets: Path, tmp_path: Path
) -> None:
    state = user_models.load_module(f"{nets}:Small").state_dict()
    state.pop("1.num_batches_tracked")  # as in files of older versions of torch
    change(state)
    torch.save(state, path := tmp_path / "weights.pth")
    with pytest.raises(InputError, match=said):
        checkpoint.load(path, Hints(model=f"{nets}:Small", image_size=(8, 8)))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{nets}", "names no code; write path/to/file.py:factory"),
        ("{nets}x.py:net", "there is no such file"),
        ("no_such_package.at_all:net", r"cannot be imported \(ModuleNotFoundError"),
        ("{nets}:missing", "has no function 'missing'"),
        ("{nets}:broken", r"failed, called without arguments \(ValueError: no weights here\)"),
        ("{nets}:number", "gives int, not an nn.Module"),
        ("{nets}:maps", r"gives a tensor \(2, 8, 6, 6\) for two images, not logits"),
        ("{nets}:resnet10", None),
    ],
)
def test_code_that_gives_no_classifier_is_told_from_one_that_does(spec: str, said: str | None, nets: Path) -> None:
    whole = spec.format(nets=nets)
    if said is None:
        with pytest.raises(InputError, match="does not say how large its images are; say it with --image-size"):
            user_models.wrap_model(whole, Hints(model=whole))
        assert user_models.wrap_model(whole, Hints(image_size=(32, 48))).config.image_size == (32, 48)
        return
    with pytest.raises(InputError, match=said):
        user_models.wrap_model(user_models.resolve_spec(whole) or "", Hints(image_size=(8, 8)))


def test_a_vit_needs_no_code(run: Run, nets: Path) -> None:
    with pytest.raises(InputError, match="a Vision Transformer that compress knows without its code"):
        checkpoint.load(run.checkpoint(), Hints(model=f"{nets}:Small"))


def test_the_metadata_name_the_model(nets: Path, tmp_path: Path) -> None:
    model, content = made(nets, "Small", 8)
    export_onnx(model, path := tmp_path / "small.onnx", torch.randn(10, 1, 8, 8), content)
    facts = {each.key: json.loads(each.value) for each in onnx.load(path).metadata_props}
    assert (facts["model"], facts["image_size"], facts["methods"]) == ("Small", [8, 8], [])
    assert isinstance(model.module, nn.Sequential)
