"""One contract for every method, and the invariants of composing them."""

import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from baselines.errors import InputError
from baselines.pretrain import PretrainConfig
from baselines.train import Step
from baselines.vit import VisionTransformer, ViTConfig
from compress import variant
from compress.methods import METHODS, AViT, Int8, Method, Stage
from compress.quantization.linear import quantized_layers
from compress.quantization.operators import quantize_weight

METHOD_TYPES = list(METHODS.values())
# What a method has to cope with: a class token, none, a learned pooling behind batch norms, a second token and head,
# and what later models brought.
SHAPES: dict[str, dict[str, Any]] = {
    "cls": {},
    "mean": {"pool": "mean"},
    "seq": {"pool": "seq", "tokenizer": "cct", "norm": "batch"},
    "distill": {"distill_token": True},
    "modern": {"registers": 2, "layer_scale": 0.5, "qk_norm": True},
    "modern mean": {"pool": "mean", "registers": 3},
}


def small(shape: str = "cls", **changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    geometry: dict[str, Any] = {"image_size": (16, 12), "channels": 1, "patch_size": 4, "dim": 24, "depth": 4}
    return VisionTransformer(
        ViTConfig(**(geometry | {"heads": 2, "mlp_dim": 32, "classes": 5} | SHAPES[shape] | changes))
    ).eval()


def dense_for(kind: type[Method], shape: str) -> VisionTransformer:
    """A model to be compressed; where numbers alone change, every block is treated alike, and two are enough."""
    return small(shape, depth=2) if kind.stage == Stage.NUMERICS else small(shape)


def images(n: int = 9) -> torch.Tensor:
    return torch.randn(n, 1, 16, 12, generator=torch.Generator().manual_seed(1))


def ready(model: VisionTransformer, method: Method) -> VisionTransformer:
    """Prepared and calibrated, not converted."""
    prepared = variant.prepare(model, [method])
    method.initialize(prepared, [images(32)])
    method.calibrate(prepared, [images(32)])
    return prepared.eval()


@dataclass(frozen=True)
class Made:
    """A dense model, and what a method with its default settings made of it; nothing here is to be changed."""

    dense: VisionTransformer
    before: dict[str, Tensor]  # its state
    logits: Tensor  # its own, before
    ready: VisionTransformer
    shipped: VisionTransformer


@cache  # calibrating takes a second, and every test below looks at the same model
def made(kind: type[Method], shape: str) -> Made:
    dense = dense_for(kind, shape)
    before, logits = copy.deepcopy(dense.state_dict()), dense(images())
    prepared = ready(dense, kind())
    return Made(dense, before, logits, prepared, variant.convert(prepared, [kind()]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", METHOD_TYPES, ids=lambda kind: kind.name)
class TestContract:
    def test_the_baseline_is_untouched(self, kind: type[Method], shape: str) -> None:
        model, state = (found := made(kind, shape)).dense, found.before
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert torch.equal(model(images()), found.logits)

    def test_logits_in_training_and_evaluation(self, kind: type[Method], shape: str) -> None:
        model = copy.deepcopy(made(kind, shape).ready)
        for n in (1, 3):
            assert model.eval()(images(n)).shape == (n, 5)
            assert model.train()(images(n)).shape == (n, 5)

    def test_losses_reach_the_weights(self, kind: type[Method], shape: str) -> None:
        method = kind()
        model = variant.prepare(dense_for(kind, shape), [method]).train()
        output = model.compute_output(images())
        labels, taught = torch.zeros(9, dtype=torch.long), replace(output, logits=output.logits.detach())
        terms = method.loss_terms(Step(model, images(), labels, output.logits, output, None, taught, 0.5))
        loss = torch.stack([output.logits.square().mean(), *terms.values()]).sum()
        loss.backward()
        gradients = [p.grad for name, p in model.named_parameters() if "blocks" in name and name.endswith("weight")]
        assert gradients
        assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)

    def test_a_saved_state_gives_the_same_logits(self, kind: type[Method], shape: str, tmp_path: Any) -> None:
        method, found, state = kind(), made(kind, shape), tmp_path / "state.pt"
        for source, converted in ((found.ready, False), (found.shipped, True)):
            torch.save(source.state_dict(), state)
            again = variant.prepare(dense_for(kind, shape), [method])
            again = variant.convert(again, [method]) if converted else again
            again.load_state_dict(torch.load(state, weights_only=True))
            assert torch.equal(again.eval()(images()), source(images()))

    def test_converting_keeps_the_answer_and_does_no_more_work(self, kind: type[Method], shape: str) -> None:
        model, shipped = (found := made(kind, shape)).ready, found.shipped
        torch.testing.assert_close(shipped(images()), model(images()), rtol=0, atol=1e-5)
        tokens = shipped.compute_output(images()).encoder.counts
        assert tokens is None or bool((tokens <= model.config.tokens).all())

    def test_same_seed_same_result(self, kind: type[Method], shape: str) -> None:
        first, second = made(kind, shape).ready, ready(dense_for(kind, shape), kind())
        assert torch.equal(first(images()), second(images()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", METHOD_TYPES, ids=lambda kind: kind.name)
def test_the_identity_setting_changes_nothing(kind: type[Method], shape: str) -> None:
    method, model = kind(**kind.identity), dense_for(kind, shape)
    if kind.stage == Stage.NUMERICS:  # of a model whose numbers are levels already
        model = variant.convert(ready(model, method), [method])
        for layer in quantized_layers(model).values():
            weight_OI = layer.weight.t().float() * layer.weight_scale[:, None]
            assert torch.equal(quantize_weight(weight_OI, layer.weight_scale).t(), layer.weight)
            assert layer.input is not None
            assert torch.equal(layer.input(once := layer.input(images())), once)
    else:
        shipped = variant.convert(variant.prepare(model, [method]), [method])
        assert torch.equal(shipped(images()), model(images()))


class TestNames:
    def test_a_name_is_an_ordered_list(self) -> None:
        assert variant.parse("vit").methods == ()
        assert [type(m) for m in variant.parse("avit_int8").methods] == [AViT, Int8]
        assert variant.parse("vit_int8").name == "int8"
        assert variant.parse("avit", {"avit": {"target_macs": 0.5}}).methods == (AViT(target_macs=0.5),)

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("int8_avit", "write 'avit_int8'"),
            ("fastvit", f"choose from vit, {', '.join(METHODS)}"),
            ("avit_avit", "at most one method"),
            ("", "is no method"),
        ],
    )
    def test_what_cannot_be_is_refused(self, name: str, says: str) -> None:
        with pytest.raises(InputError, match=says):
            variant.parse(name)

    def test_settings_are_checked(self) -> None:
        with pytest.raises(InputError, match="did you mean 'target_macs'"):
            variant.parse("avit", {"avit": {"target_mac": 0.5}})


def test_older_names_of_settings_go_on_working() -> None:
    method = variant.make_method("int8", {"rest": "bf16"})
    assert method.fallback == "bf16"
    assert method.model_dump()["fallback_dtype"] == "bf16"
    assert PretrainConfig.model_validate({"normalise": True}).normalize
