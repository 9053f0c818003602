"""A-ViT: every token stops when it has seen enough (Yin et al. 2022, arXiv 2112.07658).

Modifications to the baseline: `encoder` is replaced by `HaltingEncoder`, which holds the same blocks.
Written from the paper; where the published code departs from it or cannot work, the choice taken is:

- Halting score of a block's output x: `h = sigmoid(gate(x) + gate_shift)`. The paper (eq. 3) takes the first channel,
  times a constant: `gate = "channel"`. `gate = "linear"` learns a weight for every channel, block by block, so that a
  model whose first channel means something else need not unlearn it.
- A token stops when its scores add up to 1 - eps (eq. 4-6), and in the last block. The head gets the mean of its states
  under the scores and the remainder (mean field, eq. 8-9); of tokens that are not gated, the last state.
- Training masks stopped tokens as keys. Deployment removes them from the packed batch; both give the same logits.
- The shift is no weight: in each step it follows the distance of the batch from `target_macs`, and after training it is
  set by bisection on training images. A shift that is learned moves too little in a few epochs (docs/log.md).
- The ponder loss (eq. 10-11) pulls towards `target_macs` from both sides instead of down without end, and the prior
  is a truncated, normalized Gaussian whose mean depth meets the target; its divergence is a true KL of the
  mean token distribution, which the paper's code approximates with clamped, unnormalized values.
- The class token's loss cannot tell which patch matters, since stopping is a hard mask. A straight-through factor
  on the attention that a running token gets, 1 in the forward pass, gives the gate that gradient.

Legend: B images, N tokens, D width, T tokens left in a packed batch, L blocks.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.macs import dense_macs, ragged_macs, stem_macs
from baselines.output import EncoderOutput, Halting
from baselines.ragged import Ragged
from baselines.train import Step
from baselines.vit import Encoder, VisionTransformer, ViTConfig
from compress.methods.base import TokenMethod

FAR = 1e5  # a shift that halts or spares everything, whatever the gate says
CLOSE = 0.01  # to which calibration finds it


class AViT(TokenMethod):
    name: ClassVar[str] = "avit"
    identity: ClassVar[Mapping[str, Any]] = {"gate_scale": 0.0, "gate_shift": -1e4, "target_macs": 1.0}

    target_macs: float = Field(default=0.7, gt=0, le=1)  # mean share of the dense model's MACs that an image may cost
    ponder: float = Field(default=1.0, ge=0)  # weight of the ponder loss
    prior: float = Field(default=0.1, ge=0)  # weight of the divergence from the prior
    prior_std: float = Field(default=1.0, gt=0)  # blocks
    gate: Literal["linear", "channel"] = "linear"  # learned from all channels, or set on the first one
    gate_scale: float = 5.0  # gamma of eq. 3; of the linear gate, where training starts
    gate_shift: float = -5.0  # beta of eq. 3, where training starts
    gate_lr: float = Field(default=10.0, gt=0)  # factor on the learning rate of the linear gate
    steering: float = Field(default=5.0, ge=0)  # how far the shift moves in a step, by distance from the target
    eps: float = Field(default=0.01, gt=0, lt=1)  # a token stops once its scores add up to 1 - eps
    cls_halts: bool = False  # whether the class token may stop, too

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        model.encoder = HaltingEncoder(model, self)
        return model

    def lr_scale(self) -> Mapping[str, float]:
        return {"encoder.gates": self.gate_lr}

    def loss_terms(self, step: Step) -> Mapping[str, Tensor]:
        encoder, halting = step.model.encoder, step.output.encoder.halting
        assert isinstance(encoder, HaltingEncoder)
        assert halting is not None
        depth, target = halting.weights.shape[-1], encoder.target
        # The count of blocks has no gradient; as in the paper the remainder stands in for it. Its sign follows
        # the distance of the real count from the target.
        gap = (halting.blocks_run.float().mean() / depth - target).detach()
        prior_L = gaussian_prior(depth, target * depth, self.prior_std).clamp(min=1e-6)
        prior_L = prior_L.to(halting.weights.device, halting.weights.dtype, non_blocking=True)
        mean_L = halting.weights.mean((0, 1)).clamp(min=1e-8)
        return {
            "ponder": self.ponder * gap * halting.remainder.mean(),
            "prior": self.prior * (mean_L * (mean_L / prior_L).log()).sum(),
        }

    @torch.no_grad()
    def calibrate(self, model: VisionTransformer, batches: list[Tensor]) -> None:
        encoder = model.encoder
        assert isinstance(encoder, HaltingEncoder)
        model.eval()

        def too_much(shift: float) -> bool:
            encoder.gate_shift.fill_(shift)
            spent = []
            for images in batches:
                counts_BL = model.compute_output(images).encoder.counts
                assert counts_BL is not None
                spent.append(halting_macs(model.config, counts_BL))
            return torch.cat(spent).mean().item() > self.target_macs * dense_macs(model.config)

        low = high = encoder.gate_shift.item()  # more of it, earlier halting
        step = 0.5  # training left it near; how far off depends on the weights of the gate
        if too_much(high):
            while too_much(high := high + step) and high < FAR:
                low, step = high, 4 * step
        else:
            while not too_much(low := low - step) and low > -FAR:
                high, step = low, 4 * step
        while high - low > CLOSE and low > -FAR and high < FAR:
            middle = (low + high) / 2
            low, high = (middle, high) if too_much(middle) else (low, middle)
        encoder.gate_shift.fill_(high)


class HaltingEncoder(Encoder):
    """The blocks of a `VisionTransformer` with adaptive halting of tokens."""

    def __init__(self, model: VisionTransformer, method: AViT):
        super().__init__(model.encoder.blocks)
        config = model.config
        self.gates = nn.ModuleList(nn.Linear(config.dim, 1, bias=False) for _ in range(config.depth - 1))
        for gate in self.gates:
            start = torch.eye(1, config.dim) if method.gate == "channel" else opening(model)
            gate.weight = nn.Parameter(method.gate_scale * start, requires_grad=method.gate == "linear")
        self.gate_shift: Tensor
        self.register_buffer("gate_shift", torch.tensor(method.gate_shift))
        self.token_macs, self.steering = config.dim, method.steering
        self.threshold = 1 - method.eps
        self.exempt = config.prefix_tokens if not method.cls_halts else 0  # leading tokens that never halt
        self.target = target_depth(method.target_macs, config, self.exempt) / config.depth  # share of the blocks
        self.pooled = model.config.head_tokens or model.config.tokens  # leading tokens that the head looks at

    def forward(self, x_BND: Tensor) -> EncoderOutput:
        return self.masked(x_BND) if self.training else self.gathered(x_BND)

    def halting(self, x: Tensor, exempt: Tensor, index: int) -> Tensor:
        """Halting scores of a block's output (..., D) -> (...); `exempt` ones (bool) score 0 before the last block."""
        if index == len(self.blocks) - 1:
            return torch.ones_like(x[..., 0], dtype=torch.float32)
        scores = torch.sigmoid(self.gates[index](x)[..., 0].float() + self.gate_shift)
        return scores.masked_fill(exempt, 0.0)

    def masked(self, x_BND: Tensor) -> EncoderOutput:
        """Every token computed, stopped ones hidden: what training differentiates through."""
        batch, tokens, _ = x_BND.shape
        exempt_N = torch.arange(tokens, device=x_BND.device) < self.exempt
        total_BN = x_BND.new_zeros(batch, tokens, dtype=torch.float32)
        running_BN = torch.ones_like(total_BN, dtype=torch.bool)
        out_BND = torch.zeros_like(x_BND)
        weights, ran_BN, remainder_BN = [], torch.zeros_like(total_BN), torch.zeros_like(total_BN)
        for index, block in enumerate(self.blocks):
            soft_BN = 1 - total_BN
            x_BND = block(x_BND, weight=running_BN * (1 + (soft_BN - soft_BN.detach())))
            score_BN = self.halting(x_BND, exempt_N, index)
            stops_BN = running_BN & (total_BN + score_BN >= self.threshold)
            weight_BN = torch.where(stops_BN, 1 - total_BN, score_BN) * running_BN
            out_BND = out_BND + weight_BN[..., None] * x_BND
            remainder_BN = torch.where(stops_BN, 1 - total_BN, remainder_BN)
            ran_BN = ran_BN + running_BN
            total_BN = total_BN + score_BN * running_BN
            running_BN = running_BN & ~stops_BN
            weights.append(weight_BN)
        gated = slice(self.exempt, None)
        if self.training:  # a step later: the graph of this one holds the sigmoid's result, not the shift
            self.gate_shift += self.steering * (ran_BN[:, gated].mean() / len(self.blocks) - self.target)
        halting = Halting(torch.stack(weights, -1)[:, gated], ran_BN[:, gated], remainder_BN[:, gated])
        return EncoderOutput(out_BND, halting=halting)

    def gathered(self, x_BND: Tensor) -> EncoderOutput:
        """Stopped tokens leave the packed batch: what ships."""
        batch, tokens, dim = x_BND.shape
        layout = Ragged.full(batch, tokens, x_BND.device)
        x_TD = x_BND.reshape(batch * tokens, dim)
        total_T = x_TD.new_zeros(batch * tokens, dtype=torch.float32)
        field = MeanField(x_BND, self.pooled) if self.exempt < self.pooled else None
        counts: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            counts.append(layout.counts_B)
            x_TD = block(x_TD, layout=layout)
            last = index == len(self.blocks) - 1
            if last and field is None:
                break  # nothing but the exempt tokens, which lead their image, is looked at
            score_T = self.halting(x_TD, layout.token_T < self.exempt, index)
            stops_T = total_T + score_T >= self.threshold
            if field is not None:
                field.add(layout, torch.where(stops_T, 1 - total_T, score_T), x_TD)
            if last:
                break
            stays = (~stops_T).nonzero().flatten()
            total_T = total_T + score_T
            if not torch.compiler.is_exporting() and len(stays) == 0:
                break
            if torch.compiler.is_exporting() or len(stays) < len(stops_T):
                x_TD, total_T, layout = x_TD.index_select(0, stays), total_T[stays], layout.select(stays)
                if self.watch is not None:
                    self.watch(layout.token_T)
        if field is None:  # the leading tokens of every image are still there
            out_BND = torch.stack([x_TD[layout.starts_B + place] for place in range(self.pooled)], 1)
        else:
            out_BND = field.sums_RD.view(batch, self.pooled, -1)
        counts += [torch.zeros_like(layout.counts_B)] * (len(self.blocks) - len(counts))
        return EncoderOutput(out_BND, torch.stack(counts, 1))


def opening(model: VisionTransformer) -> Tensor:
    """The direction (1, D) that a linear gate starts with, of length 1: away from what a learned pooling wants, else
    that of the first channel, which is as good as any."""
    if model.sequence_pool is None:
        return torch.eye(1, model.config.dim)
    return -F.normalize(model.sequence_pool.score.weight.detach() * model.norm.get_parameter("weight").detach())


class MeanField:
    """The weighted sums of token states that the head looks at (eq. 9), in the order of the full batch."""

    def __init__(self, x_BND: Tensor, pooled: int):
        self.pooled, self.all_tokens = pooled, pooled == x_BND.shape[1]
        self.sums_RD = x_BND.new_zeros(x_BND.shape[0] * pooled, x_BND.shape[-1])  # R = B * pooled

    def add(self, layout: Ragged, weight_T: Tensor, x_TD: Tensor) -> None:
        rows = layout.image_T * self.pooled + layout.token_T
        if not self.all_tokens:  # only those that the head looks at, which may have left
            leading = (layout.token_T < self.pooled).nonzero().flatten()
            rows, weight_T, x_TD = rows[leading], weight_T[leading], x_TD.index_select(0, leading)
        self.sums_RD = self.sums_RD.index_add(0, rows, weight_T[:, None].to(x_TD.dtype) * x_TD)


def halting_macs(config: ViTConfig, tokens_BL: Tensor) -> Tensor:
    """MACs of each image (B,), the gate included."""
    return ragged_macs(config, tokens_BL, tokens_BL) + config.dim * tokens_BL[:, :-1].sum(1)


def target_depth(target_macs: float, config: ViTConfig, exempt: int) -> float:
    """Blocks that a gated token may run, on average, so that a model with `exempt` others meets `target_macs`."""
    dense = dense_macs(config)
    in_blocks = (dense - stem_macs(config)) / dense  # share of the cost that halting can touch
    gated = (config.tokens - exempt) / config.tokens
    return min(max(config.depth * (1 - (1 - target_macs) / (in_blocks * gated)), 1.0), float(config.depth))


@cache
def gaussian_prior(depth: int, mean: float, std: float) -> Tensor:
    """A discrete Gaussian over blocks 1 to `depth`, (L,), summing to 1, whose mean is `mean`.

    Truncation pulls the mean inwards, so the centre is found by bisection.
    """
    blocks = torch.arange(1, depth + 1, dtype=torch.float64)
    low, high = -10.0 * depth, 11.0 * depth
    prior_L = torch.full_like(blocks, 1 / depth)
    for _ in range(60):
        centre = (low + high) / 2
        prior_L = torch.softmax(-0.5 * ((blocks - centre) / std) ** 2, 0)
        low, high = (centre, high) if (prior_L * blocks).sum() < mean else (low, centre)
    return prior_L
