"""Which of several models in one file is taken: the average, which authors publish, unless the user says otherwise.

    {"model": ..., "model_ema": ...}   {"student": ..., "teacher": ...}   model.* beside ema_model.*

A teacher averages its student (DINO, iBOT, mean teacher) where both have weights of the same shapes. One of other
shapes taught by its answers (distillation), and the student is meant. MoCo publishes the encoder, not its average.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from baselines.errors import InputError
from compress.importers.base import Hints

AVERAGES = {"ema", "swa", "average", "averaged", "shadow"}  # words of a name
TEACHERS = {"teacher", "target"}
LATEST = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights", "base_encoder",
    "encoder_q", "student", "online", "online_network", "online_encoder",
)  # fmt: skip
ALIKE = 0.8  # share of the weights that student and teacher have in common; their heads may differ
SHOWN = 8  # names in a sentence
AVERAGED, LAST = "averaged", "last"


class Chooser:
    """Chooses among the models of one file, and remembers what there was to choose from."""

    def __init__(self, path: Path, hints: Hints):
        self.path, self.wanted = path, hints.weights
        self.averaged = hints.ema if hints.weights in (None, "") else hints.weights != LAST
        self.found = self.wanted in (None, "", AVERAGED, LAST)
        self.notes: list[str] = []
        self.offered: list[str] = []

    def choose(self, models: Mapping[str, Iterable[Tensor]]) -> str:
        """The name of the model to take.

        Args:
            models: at least one, by name or by what stands in front of its weights.

        Raises:
            InputError: nothing says which one is meant.
        """
        names = list(models)
        self.offered += names if len(names) > 1 else []
        named = [name for name in names if not self.found and is_part(str(self.wanted), name)]
        if named:
            self.found = True
            return self._note(named[0], names)
        if len(names) == 1:
            return names[0]
        averages = [name for name in names if find_words(name) & AVERAGES]
        averages += [name for name in names if find_words(name) & TEACHERS and self._is_average(name, models)]
        others = [name for name in names if name not in averages]
        latest = sorted((name for name in others if rank(name) < len(LATEST)), key=rank)
        latest = latest or (others if len(others) == 1 or averages else [])
        preferred = [*averages, *latest] if self.averaged else [*latest, *averages]
        if not preferred:
            raise InputError(
                f"{self.path} holds several models ({list_names(names)}); say which with --weights {show(names[0])}"
            )
        return self._note(preferred[0], names)

    def check_found(self) -> None:
        """Raises InputError where the model that the user named is not in the file."""
        if not self.found:
            names = list_names(dict.fromkeys(self.offered))
            held = f"it holds {names}" if names else "it holds one model alone; leave that option out"
            raise InputError(f"--weights {self.wanted} is no entry of {self.path}; {held}")

    def _is_average(self, name: str, models: Mapping[str, Iterable[Tensor]]) -> bool:
        """Whether another model has weights of the same shapes."""
        shapes = count_shapes(models[name])
        others = [count_shapes(each) for other, each in models.items() if other != name]
        return any((shapes & each).total() >= ALIKE * max(shapes.total(), each.total()) for each in others)

    def _note(self, name: str, names: list[str]) -> str:
        if len(names) > 1:
            self.notes.append(f"weights of {show(name)!r} out of {list_names(names)} (--weights takes another)")
        return name


def find_words(name: str) -> set[str]:
    """`model.ema_model` -> model, ema."""
    return {word for word in re.split(r"[._/\s]", name.lower()) if word}


def is_part(wanted: str, name: str) -> bool:
    """Whether what the user named is a name, or whole parts of a prefix such as `student` of `student.backbone`."""
    return f".{wanted.strip('.')}." in f".{name.strip('.')}."


def rank(name: str) -> int:
    """The place of a name, or of the last of its parts, among those of the latest weights."""
    return min((LATEST.index(part) for part in (name, *name.split(".")) if part in LATEST), default=len(LATEST))


def count_shapes(tensors: Iterable[Tensor]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(each.shape) for each in tensors if each.ndim > 1)


def show(name: str) -> str:
    return name[:40] or LAST  # without any prefix


def list_names(names: Iterable[str]) -> str:
    listed = [show(name) for name in names]
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
