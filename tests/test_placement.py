"""Every method and the whole training on a CUDA device, without one: nothing mixes devices, and the host rarely waits.

The device is a stand-in (`stand_in_cuda.py`) that computes on the CPU. Where the host may wait is what docs/cuda.md
lists.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in_cuda import StandIn, stand_in_cuda
from test_methods import images, small
from test_train import Kept
from torch.utils._pytree import tree_map

from baselines.data import Data, TensorSplit
from baselines.distributed import ALONE
from baselines.feed import Feed
from baselines.pretrain import PretrainConfig, Pretrainer
from baselines.randaugment import OPERATIONS
from baselines.train import TrainConfig, Trainer, fit
from baselines.vit import VisionTransformer
from compress import variant
from compress.measure.cost import measure_batches
from compress.methods import METHODS, avit
from compress.quantization.importance import sample_rows
from compress.quantization.products import use_integer_kernels
from compress.quantization.sensitivity import rank_layers
from compress.runtimes import torch_session
from compress.training import finetuning
from compress.variant import Variant

DOCS = Path(__file__).parents[1] / "docs" / "cuda.md"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SETTINGS: dict[str, dict[str, Any]] = {
    "topk fuse": {"topk": {"fuse": True}},
    "avit channel": {"avit": {"gate": "channel", "cls_halts": True}},
    "int8 token": {"int8": {"activations": "token"}},
    "int8 tensor": {"int8": {"activations": "tensor", "signed": False}},
    "int8 attention": {"int8": {"attention": True, "signed": True}},
    "qat short": {"qat": {"recipe": "short"}},
    "distill": {"distill": {"hint": 1.0, "relation": 1.0}},
    "topk_distill": {"distill": {"kind": "hard"}},
    "slim": {"slim": {"keep": 0.6, "multiple": 4}},
}
SHIPPED = [
    "vit",
    "topk",
    "topk fuse",
    "tome",
    "dynamicvit",
    "avit",
    "avit channel",
    "int8",
    "int8 token",
    "int8 tensor",
]
SHIPPED += ["int8 attention", "int4", "fp8", "bf16", "topk_int8", "tome_bf16", "avit_int4", "slim", "slim_topk"]
LEARNED = [
    "topk",
    "tome",
    "dynamicvit",
    "avit",
    "qat",
    "qat short",
    "narrow",
    "slim",
    "distill",
    "topk_distill",
    "avit_distill",
]
TRAIN = TrainConfig(epochs=1, batch_size=8, warmup_epochs=0, precision="fp32", crop_padding=1, matmul="highest")
EVERYTHING = {
    "crop_scale": 0.5,
    "randaugment": 4,
    "erasing": 0.9,
    "mixup": 0.4,
    "cutmix": 0.4,
    "repeats": 2,
    "ohem": 0.5,
    "sampling": "balanced",
    "loss": "focal",
    "class_weights": True,
    "validation": 0.25,
    "ema": 0.9,
}


def allowed(*when: str) -> set[tuple[str, str]]:
    """Files and functions that may wait, as docs/cuda.md lists them."""
    rows = re.findall(r"^\| `([\w/]+\.py)` `(\w+)` \| ([\w ]+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    return {(file, function) for file, function, moment in rows if moment in when}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "stand-in")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(avit, "CLOSE", 1.0)  # a short search
    with stand_in_cuda() as stand_in:
        yield stand_in


def little(name: str = "", shape: str = "cls", **changes: Any) -> VisionTransformer:
    return small(shape, **{"depth": 1 if "int8" in name or "qat" in name else 2, **changes})


def parse(name: str) -> Variant:
    return variant.parse(name.split()[0], SETTINGS.get(name))


def noise(count: int = 16) -> Data:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 16, 12), dtype=torch.uint8, generator=generator)
    split = TensorSplit(pixels, torch.arange(count) % 5)
    return Data("noise", tuple("abcde"), split, replace(split), (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


def on_device(model: torch.nn.Module) -> bool:
    return all(each.device.type == "cuda" for each in (*model.parameters(), *model.buffers()))


def to_host(state: Any) -> Any:
    return tree_map(lambda each: each.cpu() if isinstance(each, torch.Tensor) else each, state)


def make(name: str, shape: str, device: torch.device) -> tuple[VisionTransformer, VisionTransformer]:
    """A variant without training, calibrated, and as it ships."""
    methods, model = parse(name).methods, finetuning.prepare(little(name, shape), parse(name).methods).to(device)
    for method in methods:
        method.initialize(model, [images(4).to(device)])
    model = finetuning.calibrate(model, methods, [images(4)], device)
    return model, variant.convert(model, methods)


@pytest.mark.parametrize(
    ("name", "shape"), [*((name, "cls") for name in SHIPPED), *((name, "seq") for name in ("topk", "bf16", "avit"))]
)
def test_what_ships_answers_as_on_a_cpu(name: str, shape: str, seen: StandIn) -> None:
    model, shipped = make(name, shape, CUDA)
    use_integer_kernels(shipped, CUDA)
    assert on_device(model)
    assert on_device(shipped)
    session = torch_session.EagerSession(shipped.cpu(), "cuda")
    batch = session.put(images(3).numpy())
    seen.waits.clear()
    answers = session.run(batch)
    assert seen.where <= (allowed("forward") if "avit" in name else set())
    assert answers.device.type == "cuda"
    places: list[torch.Tensor] = []
    model.encoder.watch = places.append
    model(batch[:1].float())
    assert {each.device.type for each in places} <= {"cuda"}
    model.encoder.watch = None
    spent = measure_batches(model, [batch.float()])
    assert spent.per_image.shape[0] == 1 or spent.per_image.device.type == "cuda"
    expected = shipped.cpu()(images(3).to(session.dtype))
    torch.testing.assert_close(torch.from_numpy(session.get(answers)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LEARNED)
def test_a_fine_tuning_stays_on_the_device(name: str, seen: StandIn) -> None:
    methods, start = parse(name).methods, little(name, channels=3)
    teacher = little(channels=3, dim=32, patch_size=2) if "distill" in name else little(name, channels=3)
    given, training = noise(), TRAIN.model_copy(update={"validation": 0.5})
    calibration = [given.normalize(given.train.fetch([torch.arange(4)], CPU).__next__())]
    model, (record,) = finetuning.apply(
        start, [], methods, given, teacher=teacher, training=training, calibration=calibration, device=CUDA, seed=0,
        title="", start_competes=True,
    )  # fmt: skip
    assert on_device(model)
    assert {"loss", "validation_top1", "train_top1"} <= record.keys()
    assert "of 16 test images" in finetuning.describe_accuracy(model.cpu(), given, CUDA)
    assert seen.where <= allowed("once", "forward", "step", "epoch", "calibration")


def test_training_with_everything(seen: StandIn) -> None:
    """Also goes on from a state that was saved, and waits only for what a step has to know."""
    config, states = TRAIN.model_copy(update={**EVERYTHING, "epochs": 2}), Kept(1)
    with pytest.raises(KeyboardInterrupt):
        fit(little(channels=3, drop_path=0.5, dropout=0.1), noise(), config, device=CUDA, seed=0, snapshot=states)
    states.stop_after = None
    model = little(channels=3, drop_path=0.5, dropout=0.1)
    states.state = to_host(states.state)
    assert len(fit(model, noise(), config, device=CUDA, seed=0, snapshot=states)) == 2
    assert on_device(model)
    trainer = Trainer(model, noise(), config, CUDA, 0)
    batches = [*trainer.feed.epoch(0), *trainer.feed.epoch(1)]
    assert on_device(trainer.average.module)
    seen.waits.clear()
    trainer.advance(batches[0])
    trainer.advance(batches[1])
    assert seen.where <= allowed("step")
    trainer.load_state(to_host(trainer.state()))
    assert {each.device.type for each in trainer.sums.values()} == {"cuda"}


def test_pretraining(seen: StandIn) -> None:
    config = PretrainConfig(**TRAIN.model_dump(), mask_size=1, normalize=True).model_copy(update={"validation": 0.5})
    model = little(channels=3)
    fit(model, noise(), config, device=CUDA, seed=0, trainer=Pretrainer)
    assert on_device(model)
    assert seen.where <= allowed("once", "step", "epoch")


def test_batches_are_those_of_a_cpu_and_nothing_waits_for_them(seen: StandIn) -> None:
    config, given = TRAIN.model_copy(update=EVERYTHING), noise()
    here, there = ([*Feed(noise(), torch.arange(16), config, device, 3, ALONE).epoch(0)] for device in (CPU, CUDA))
    for expected, got in zip(here, there, strict=True):
        for a, b in ((expected.images, got.images), (expected.others, got.others), (expected.labels, got.labels)):
            assert (a.device.type, b.device.type) == ("cpu", "cuda")
            assert torch.equal(a, b.cpu())
    for operation in OPERATIONS.values():
        pixels, strength = given.train.fetch([torch.arange(4)], CUDA).__next__(), torch.linspace(-1, 1, 4)
        seen.waits.clear()
        assert operation(pixels, strength.to(CUDA, non_blocking=True)).device.type == "cuda"
        assert seen.where <= allowed("step")
    list(given.batches(given.train, 4, CUDA))
    for mixed in ({"mixup": 0.4}, {"cutmix": 0.4}):
        seen.waits.clear()
        config = TRAIN.model_copy(update={**EVERYTHING, "cutmix": 0.0, "mixup": 0.0, **mixed})
        fed = [*Feed(given, torch.arange(16), config, CUDA, 0, ALONE).epoch(0)]
        assert {each.share.device.type for each in fed if each.share is not None} == {"cuda"}
        assert seen.where <= allowed("step")


@pytest.mark.parametrize("name", ["topk", "tome"])
def test_schedules_are_searched_on_the_device(name: str, seen: StandIn) -> None:
    del seen
    model, settings = little().to(CUDA), {"learned": True, "target_macs": 0.8}
    method = METHODS[name](**{key: settings[key] for key in (["target_macs"] if name == "topk" else settings)})
    assert not method.settle(model, [images(4).to(CUDA)]).searches


def test_layers_are_ranked_and_inspected_on_the_device(seen: StandIn) -> None:
    del seen
    whole, packed = make("int8", "cls", CUDA)
    ranked = rank_layers(make("int8", "cls", CUDA)[0], whole, [images(2).to(CUDA)])
    assert len(ranked) == 4
    rows = sample_rows(torch.randn(9, 4).to(CUDA), torch.ones(9).to(CUDA), 3)
    assert {rows.x.device.type, rows.weight.device.type} == {"cuda"}
    assert torch_session._inspect_integers(packed.cpu(), CUDA, None).executed == "int8"
