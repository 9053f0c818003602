"""DynamicViT: small networks learn which patches may leave (Rao et al. 2021, arXiv 2106.02034).

Modifications to the baseline: `encoder` is replaced by `DynamicEncoder`, which holds the same blocks and, before each
of those at which patches leave, a `Predictor` that says how likely each patch stays. Where no patch leaves, nothing is
replaced. Written from the paper; where the published code departs from it, or ties it to one model, the choice is:

- Training draws who stays (Gumbel-softmax, a hard choice with the gradient of the soft one) and hides the others as
  keys; evaluation keeps the patches of highest score and computes nothing for the others. For the same patches kept
  both give the same logits, which the published masking does not (docs/tokens.md).
- A head that takes a mean over tokens, plain or learned, counts only patches kept, with a gradient to the decisions.
  The predictors' mean over the patches kept has one too. Batch norms see all tokens while they train.
- Any number of patches, width and depth, and any tokens in front of the patches, which always stay. The published code
  is tied to 14 x 14 patches, a class token and 1000 classes.
- Losses beside the labels: distance of the shares kept from those wanted; KL from the answers of the teacher, the
  untouched baseline; squared distance from its tokens, over the patches kept in the end, where they are comparable.
- One fine-tuning of all weights, in which the predictors learn `predictor_lr` times as fast. The published recipe has
  a factor of 100, holds the blocks still for 5 epochs, and never trains class token and positions.
- Predictors start at random: without training the patches that leave are arbitrary.

Legend: B images, N tokens, D width, P patches, S stages, C classes.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.losses import soft
from baselines.output import EncoderOutput
from baselines.reduction import gather_rows, repeat_counts, select_patches
from baselines.tokenizer import normalize_weights
from baselines.train import Step
from baselines.vit import Encoder, VisionTransformer
from compress.methods.base import Pruning


class DynamicViT(Pruning):
    name: ClassVar[str] = "dynamicvit"
    needs_teacher: ClassVar[bool] = True

    ratio_weight: float = Field(default=2.0, ge=0)  # of the distance between the shares kept and those wanted
    answer_weight: float = Field(default=0.5, ge=0)  # of the divergence from the teacher's answers
    token_weight: float = Field(default=0.5, ge=0)  # of the distance from the teacher's tokens
    predictor_lr: float = Field(default=10.0, gt=0)  # factor on the learning rate of the predictors
    tau: float = Field(default=1.0, gt=0)  # temperature of the draw: lower, nearer to a hard choice

    def prepare(self, model: VisionTransformer) -> VisionTransformer:
        if self.counts(model.config):
            model.encoder = DynamicEncoder(model, self)
        return model

    def lr_scale(self) -> Mapping[str, float]:
        return {"encoder.predictors": self.predictor_lr}

    def loss_terms(self, step: Step) -> Mapping[str, Tensor]:
        assert step.teacher_output is not None
        taught = step.teacher_output.logits.float()
        terms = {"answers": self.answer_weight * soft(step.distilled_logits, taught, temperature=1.0)}
        config, kept_BSP = step.model.config, step.output.encoder.decisions
        if kept_BSP is None:  # no patch leaves
            return terms
        shares = [count / kept_BSP.shape[2] for count in self.counts(config).values()]
        terms["ratio"] = self.ratio_weight * ratio_loss(kept_BSP, shares)
        own, aim = (each.tokens for each in (step.output, step.teacher_output))
        if own.shape == aim.shape:
            patches = slice(config.prefix_tokens, None)
            distance = token_distance(own[:, patches].float(), aim[:, patches].float(), kept_BSP[:, -1].detach())
            terms["tokens"] = self.token_weight * distance
        return terms


class Predictor(nn.Module):
    """Patches (B, P, D) -> log-probabilities that each stays, and that it leaves (B, P, 2); section 3.2 of the paper.

    Half the channels are the patch's own, the others their mean over the patches still kept.
    """

    def __init__(self, dim: int):
        super().__init__()
        half, quarter = max(dim // 2, 1), max(dim // 4, 1)
        self.own = dim // 2  # channels
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.score = nn.Sequential(
            nn.Linear(dim, half), nn.GELU(), nn.Linear(half, quarter), nn.GELU(), nn.Linear(quarter, 2)
        )
        self.macs = 0  # of one patch
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
                self.macs += module.weight.numel()

    def forward(self, x_BPD: Tensor, kept_BP: Tensor | None = None) -> Tensor:
        """Args: kept_BP: 1 for patches still kept, 0 for others; None: all are."""
        own_BPC, all_BPC = self.embed(x_BPD).tensor_split([self.own], -1)
        if kept_BP is None:
            mean_B1C = all_BPC.mean(1, keepdim=True)
        else:
            share_BP1 = normalize_weights(kept_BP)[..., None].to(all_BPC.dtype)
            mean_B1C = (share_BP1 * all_BPC).sum(1, keepdim=True)
        return self.score(torch.cat([own_BPC, mean_B1C.expand_as(all_BPC)], -1)).log_softmax(-1)


class DynamicEncoder(Encoder):
    def __init__(self, model: VisionTransformer, method: DynamicViT):
        super().__init__(model.encoder.blocks)
        config = model.config
        self.prefix, self.tau, self.counts = config.prefix_tokens, method.tau, method.counts(config)
        self.stages = {block: stage for stage, block in enumerate(self.counts)}
        predictors = [Predictor(config.dim) for _ in self.counts]
        self.predictors = nn.ModuleList(predictors)
        self.own_macs, patches = 0, config.tokens - self.prefix
        for predictor, count in zip(predictors, self.counts.values(), strict=True):
            self.own_macs += patches * predictor.macs
            patches = count

    def forward(self, x_BND: Tensor) -> EncoderOutput:
        return self.masked(x_BND, self.draw) if self.training else self.gathered(x_BND)

    def draw(self, log_BP2: Tensor) -> Tensor:
        """Log-probabilities to stay and to leave -> 1 for patches that stay, 0 for others (B, P)."""
        return F.gumbel_softmax(log_BP2.float(), self.tau, hard=True)[..., 0]

    def masked(self, x_BND: Tensor, decide: Callable[[Tensor], Tensor]) -> EncoderOutput:
        """Every token computed, those that left hidden: what training differentiates through.

        Args:
            decide: what `draw` does; called at each stage.
        """
        kept_BP = torch.ones_like(x_BND[:, self.prefix :, 0], dtype=torch.float32)
        prefix_BX = torch.ones_like(x_BND[:, : self.prefix, 0], dtype=torch.float32)
        size_BN, decisions = None, []
        for index, block in enumerate(self.blocks):
            if index in self.stages:
                predictor = self.predictors[self.stages[index]]
                kept_BP = kept_BP * decide(predictor(x_BND[:, self.prefix :], kept_BP))
                size_BN = torch.cat([prefix_BX, kept_BP], 1)
                decisions.append(kept_BP)
            x_BND = block(x_BND, weight=size_BN)
        assert size_BN is not None
        return EncoderOutput(x_BND, sizes=size_BN, decisions=torch.stack(decisions, 1))

    def gathered(self, x_BND: Tensor) -> EncoderOutput:
        """Patches that leave are gone: what ships."""
        run = []
        place_BN = torch.arange(x_BND.shape[1], device=x_BND.device).expand(x_BND.shape[:2])
        for index, block in enumerate(self.blocks):
            if index in self.stages:
                score_BP = self.predictors[self.stages[index]](x_BND[:, self.prefix :])[..., 0]
                index_BR = select_patches(score_BP, self.counts[index], self.prefix)
                x_BND = gather_rows(x_BND, index_BR)
                if self.watch is not None:
                    place_BN = place_BN.gather(1, index_BR)
                    self.watch(place_BN)
            run.append(x_BND.shape[1])
            x_BND = block(x_BND)
        return EncoderOutput(x_BND, repeat_counts(run, x_BND.shape[0], x_BND.device))


def ratio_loss(kept_BSP: Tensor, shares: list[float]) -> Tensor:
    """Decisions -> squared distance of the share of patches kept from that wanted, mean over images and stages."""
    wanted_S = torch.tensor(shares, dtype=kept_BSP.dtype).to(kept_BSP.device, non_blocking=True)
    return (kept_BSP.mean(2) - wanted_S).square().mean()


def token_distance(own_BPD: Tensor, aim_BPD: Tensor, kept_BP: Tensor) -> Tensor:
    """Mean squared distance of the patches kept, over all images; 0 where none is."""
    distance_BP = (own_BPD - aim_BPD).square().mean(2)
    return (distance_BP * normalize_weights(kept_BP.flatten()).view_as(kept_BP)).sum()
