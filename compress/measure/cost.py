"""Multiply-accumulates and parameters: closed form, fed with the tokens that really ran, and second opinions.

Of an architecture without a closed form torch's own counter is the first opinion.

Legend: n test images, L blocks.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from baselines.classifier import Classifier
from baselines.macs import dense_macs, ragged_macs
from baselines.output import ViTOutput
from baselines.ragged import padded_widths
from baselines.reduction import Products
from baselines.tokenizer import SequencePool, TokenBatchNorm
from baselines.vit import Attention, VisionTransformer

CLOSED, TORCH = "closed form", "torch FlopCounterMode"
COUNTERS = ("fvcore", "thop", TORCH)  # that are asked beside the closed form
NO_PRODUCTS = ("layer_norm", "batch_norm", "group_norm", "instance_norm", "adaptive_avg_pool2d")  # which fvcore counts


@dataclass(frozen=True)
class Cost:
    """What a model computes for each test image."""

    params: int  # logical weights
    dense: int  # MACs per image of the same geometry with all tokens
    model: Classifier
    tokens_nL: Tensor | None  # tokens of each image that ran in each block; None where all do
    mlp_tokens_nL: Tensor | None = None  # in the second half of each block, where they were others
    outputs: int | None = None  # tokens that reach the pooling; None: all

    def executed(self, batch_size: int, *, padded: bool) -> float:
        """Mean MACs per image in batches of `batch_size`, the padding of attention included.

        Args:
            padded: whether attention computes all images of a batch at the length of the longest.
        """
        if self.tokens_nL is None or not padded:
            return self.per_image.mean().item()
        return self._macs(torch.cat([padded_widths(batch) for batch in self.tokens_nL.split(batch_size)])).mean().item()

    @property
    def fixed(self) -> bool:
        """Whether every image runs the same number of tokens in each block."""
        return self.tokens_nL is None or bool((self.tokens_nL == self.tokens_nL[0]).all())

    @property
    def per_image(self) -> Tensor:
        """MACs of each test image when it is alone, (n,) float64."""
        if self.tokens_nL is None:
            return torch.tensor([float(self.dense)], dtype=torch.float64)
        return self._macs(self.tokens_nL)

    def _macs(self, width_nL: Tensor) -> Tensor:
        """MACs of each image, (n,), with attention over `width_nL` tokens."""
        assert self.tokens_nL is not None
        assert isinstance(self.model, VisionTransformer)
        blocks = ragged_macs(self.model.config, self.tokens_nL, width_nL, self.mlp_tokens_nL, self.outputs)
        encoder = self.model.encoder
        return blocks + encoder.own_macs + encoder.token_macs * self.tokens_nL[:, :-1].sum(1)


def measure_cost(model: Classifier, batches: Iterable[Tensor]) -> Cost:
    """Runs normalized images through `model` (on the CPU, not converted) and notes which tokens ran.

    Args:
        batches: each (B, C, height, width).
    """
    if not isinstance(model, VisionTransformer):
        return Cost(sum(each.numel() for each in model.parameters()), round(_torch(model, _image(model))), model, None)
    return measure_batches(model, batches)


@torch.inference_mode()
def measure_batches(model: VisionTransformer, batches: Iterable[Tensor]) -> Cost:
    """The same for batches of normalized images, each (B, C, height, width)."""
    counts, mlp_counts, outputs = [], [], model.config.tokens
    for images in batches:
        output = model.compute_output(images)
        ran = output.encoder
        if ran.counts is None:
            break
        counts.append(ran.counts)
        mlp_counts.append(ran.counts if ran.mlp_counts is None else ran.mlp_counts)
        outputs = output.tokens.shape[1]
    params, dense = sum(parameter.numel() for parameter in model.parameters()), dense_macs(model.config)
    if not counts:
        return Cost(params, dense, model, None)
    return Cost(params, dense, model, torch.cat(counts), torch.cat(mlp_counts), outputs)


def count_batch_macs(model: VisionTransformer, output: ViTOutput) -> Tensor:
    """MACs of each image of a batch when it is alone, (B,) float64, from what its forward pass gave."""
    batch, outputs, _ = output.tokens.shape
    spent = Cost(0, dense_macs(model.config), model, output.encoder.counts, output.encoder.mlp_counts, outputs)
    return spent.per_image.expand(batch)


def count_with_libraries(spent: Cost) -> dict[str, float]:
    """MACs of one image as closed form, fvcore, thop and torch's own counter see them, fused attention handled.

    Each of them as it comes misses attention on a CPU, or counts normalization as matrix products
    (docs/architecture.md); with the handlers given here all four agree to the last digit on a model of `fixed` shapes.
    """
    model = copy.deepcopy(spent.model).cpu().eval()
    image, vit = _image(model), isinstance(model, VisionTransformer)
    others = dict(zip(COUNTERS if vit else COUNTERS[:2], (_fvcore, _thop, _torch), strict=False))
    found = {CLOSED if vit else TORCH: spent.per_image[0].item()}
    for name, count in others.items():
        try:
            found[name] = count(model, image)
        except Exception:  # they trace and hook, and not every model is within them
            continue
    return found


def disagreements(counted: Mapping[str, float]) -> list[str]:
    """In words, who counts other than the closed form, or torch where there is none."""
    first = CLOSED if CLOSED in counted else TORCH
    silent = [
        f"{name} cannot count its MACs" for name in COUNTERS if counted and first == CLOSED and name not in counted
    ]
    seen = "" if first == CLOSED else ": it does not see what functions multiply"
    return silent + [
        f"{name} counts {macs:,.0f} MACs for one image, {'the ' * (first == CLOSED)}{first} {counted[first]:,.0f}"
        f"{seen if name == 'thop' else ''}"
        for name, macs in counted.items()
        if macs != counted[first]
    ]


def _image(model: Classifier) -> Tensor:
    weight = next(model.parameters())
    return torch.zeros(1, model.config.channels, *model.config.image_size, device=weight.device)


def _attention_products(q: Any, k: Any, v: Any) -> int:
    """MACs of both products from the shapes of q (B, H, N, K), k (B, H, M, K) and v (B, H, M, V)."""
    batch, heads, queries, width = q
    return batch * heads * queries * k[-2] * (width + v[-1])


def _fvcore(model: Classifier, image: Tensor) -> float:
    def attention(inputs: list[Any], _outputs: list[Any]) -> int:
        return _attention_products(*(get_shape(value) for value in inputs[:3]))

    with warnings.catch_warnings(action="ignore"):  # deprecations of its own, and its tracer's
        from fvcore.nn import FlopCountAnalysis
        from fvcore.nn.jit_handles import get_shape

        logging.getLogger("fvcore").setLevel(logging.ERROR)
        analysis = FlopCountAnalysis(model, image)
        analysis.set_op_handle("aten::scaled_dot_product_attention", attention)
        for no_product in NO_PRODUCTS:
            analysis.set_op_handle(f"aten::{no_product}", lambda _inputs, _outputs: 0)
        return float(analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total())


def _thop(model: Classifier, image: Tensor) -> float:
    def rule(macs: Callable[..., int]) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            module.total_ops += torch.DoubleTensor([macs(module, *inputs)])

        return hook

    def attention(module: Attention, x: Tensor, *_: Any) -> int:
        batch, tokens = x.shape[:2] if x.ndim == 3 else (1, len(x))  # packed: the rows of one image
        q, v = ((batch, module.heads, tokens, width // module.heads) for width in (module.qk_width, module.v_width))
        linear = batch * tokens * (module.qkv.weight.numel() + module.proj.weight.numel())
        return linear + _attention_products(q, q, v)

    nothing, pooling = rule(lambda *_: 0), rule(lambda _pool, x, *_: 2 * x.numel())  # scores, weighted mean
    rules = {Attention: rule(attention), SequencePool: pooling, nn.LayerNorm: nothing, TokenBatchNorm: nothing}
    rules |= {kind: rule(kind.macs) for kind in map(type, model.modules()) if issubclass(kind, Products)}
    if not isinstance(model, VisionTransformer):
        leaves = [each for each in model.modules() if not [*each.children()]]
        rules = {type(each): nothing for each in leaves if not isinstance(each, nn.Linear | _ConvNd)}
    with warnings.catch_warnings(action="ignore"):  # deprecations of its own
        import thop

        return float(thop.profile(model, (image,), custom_ops=rules, verbose=False)[0])


def _torch(model: Classifier, image: Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    def attention(q: Any, k: Any, v: Any, *_args: Any, **_kwargs: Any) -> int:
        return 2 * _attention_products(q, k, v)

    fused_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # of nn.MultiheadAttention: one call, in which nothing is seen
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={fused_on_cpu: attention}) as counter:
            model(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() / 2
