"""Distillation: the model learns from the answers of a teacher, and from how it sees the image, beside the labels.

Modifications to the baseline: none. The method is made of loss terms and leaves no trace in the structure. The labels
keep `1 - weight` of the objective, the teacher's answers get `weight`, as in eq. 2 and 3 of DeiT (Touvron et al. 2021,
arXiv 2012.12877); a student with a distillation token gives them by the head of that token. A hint comes on top.

- soft: T^2 KL, summed over the classes and averaged over the images (Hinton et al. 2015, section 2). T^2 keeps the
  gradient as large at any temperature. DeiT's code averages over classes too, which makes the term that much smaller.
- hard: cross entropy against the class that the teacher chooses (DeiT, eq. 3).
- hint: distance of the tokens after the last norm (FitNets, Romero et al. 2015, arXiv 1412.6550), each brought to
  mean 0 and deviation 1, so that one weight suits any teacher. Where the widths differ, a linear projection of the
  student's is learned, which does not ship.
- relation: distance of the cosine similarities between the tokens of an image, which have no width. Tung and Mori 2019
  (arXiv 1907.09682) compare images of a batch like this.

The teacher sees the images of the student, augmented and mixed. Where it cuts them into another number of patches,
its tokens are averaged onto the grid of the student.

Legend: B images, N tokens, D width, C classes.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.classifier import Classifier
from baselines.errors import InputError
from baselines.losses import soft
from baselines.train import Step
from baselines.vit import VisionTransformer, ViTConfig
from compress.methods.base import Method, Stage


class Distill(Method):
    name: ClassVar[str] = "distill"
    stage: ClassVar[Stage] = Stage.OBJECTIVE
    trains: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = True
    identity: ClassVar[Mapping[str, Any]] = {"weight": 0.0}

    kind: Literal["soft", "hard"] = "soft"  # the teacher's probabilities, or the class it chooses
    weight: float = Field(default=0.5, ge=0, le=1)  # share of the teacher's answers; the labels keep the rest
    temperature: float = Field(default=3.0, gt=0)  # of soft answers
    hint: float = Field(default=0.0, ge=0)  # weight of the distance between tokens
    relation: float = Field(default=0.0, ge=0)  # weight of the distance between similarities of tokens
    teacher: str | None = None  # checkpoint to learn from; None: the baseline

    def teacher_file(self) -> str | None:
        return self.teacher

    def label_weight(self) -> float:
        return 1 - self.weight

    def make_projector(self, model: VisionTransformer, teacher: Classifier) -> nn.Module | None:
        if not self.hint and not self.relation:
            return None
        if not isinstance(teacher, VisionTransformer):
            raise InputError(
                "[methods.distill] hint and relation compare tokens, and the teacher has none: it is no Vision "
                "Transformer; set both to 0"
            )
        widths = model.config.dim, teacher.config.dim
        if not self.hint or widths[0] == widths[1]:
            return None
        return nn.Sequential(OrderedDict(linear=nn.Linear(*widths)))  # its name in snapshots

    def loss_terms(self, step: Step) -> Mapping[str, Tensor]:
        assert step.teacher_output is not None
        logits, taught = step.distilled_logits, step.teacher_output.logits.float()
        answers = soft(logits, taught, self.temperature) if self.kind == "soft" else hard(logits, taught)
        terms = {"distill": self.weight * answers}
        if self.hint:
            terms["hint"] = self.hint * token_distance(*pair_tokens(step, step.output.projected_tokens))
        if self.relation:
            terms["relation"] = self.relation * relation_distance(*pair_tokens(step))
        return terms


def hard(logits: Tensor, taught: Tensor) -> Tensor:
    return F.cross_entropy(logits, taught.argmax(1))


def pair_tokens(step: Step, projected: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The tokens of student and teacher that stand for the same: the class token, where both have one, and patches.

    Args:
        projected: to be taken for the tokens of the student.

    Raises:
        InputError: one of them does not hand out all its tokens.
    """
    assert step.teacher is not None
    assert step.teacher_output is not None
    own, other = step.model.config, step.teacher.config
    first = own.pool == other.pool == "cls"
    tokens = step.output.tokens if projected is None else projected
    student = on_grid(tokens.float(), own, own.grid, first, "student")
    return student, on_grid(step.teacher_output.tokens.float(), other, own.grid, first, "teacher")


def on_grid(tokens_BND: Tensor, config: ViTConfig, grid: tuple[int, int], first: bool, who: str) -> Tensor:
    """All tokens of a model of geometry `config` -> the class token, if `first`, and one for each patch of `grid`."""
    if tokens_BND.shape[1] != config.tokens:
        raise InputError(
            f"[methods.distill] hint and relation compare all tokens, but the {who} hands out {tokens_BND.shape[1]} of "
            f"its {config.tokens}; set both to 0"
        )
    patches = tokens_BND[:, config.prefix_tokens :]
    if config.grid != grid:
        image = patches.transpose(1, 2).unflatten(2, config.grid)
        patches = F.adaptive_avg_pool2d(image, grid).flatten(2).transpose(1, 2)
    return torch.cat([tokens_BND[:, :1], patches], 1) if first else patches


def token_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of tokens (B, N, D): 0 where they are equal, 2 where they have nothing in common."""
    own, aim = (F.layer_norm(each, each.shape[-1:]) for each in (student, teacher))
    return F.mse_loss(own, aim)


def relation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the cosine similarities of all pairs of tokens (B, N, any width)."""
    own, aim = (F.normalize(each, dim=-1) for each in (student, teacher))
    return F.mse_loss(own @ own.mT, aim @ aim.mT)
