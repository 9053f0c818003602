"""Values that a setting may take, and drawing one of them: what hyperparameter sweeps and searches have in common."""

import math
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


DIGITS = 10  # of values with steps, so that 0.6 is not 0.6000000000000001


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    low: int | float
    high: int | float
    log: bool = False  # draws their logarithm evenly
    step: float | None = Field(default=None, gt=0)  # between neighbours; None: any number between

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low above 0, not {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log = true and step exclude each other; remove one of them")
        if self.whole and self.step is not None and self.step % 1:
            raise ValueError(f"whole numbers need a whole step, not {self.step}")
        return self

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def list_values(self) -> list[float]:
        """All values of a range with steps."""
        assert self.step is not None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [round(self.low + index * self.step, DIGITS) for index in range(count)]


Choices = tuple[Any, ...] | Range


def suggest(trial: "BaseTrial", name: str, choices: Choices) -> Any:
    """The value that a trial of Optuna has, or draws, for a setting."""
    if not isinstance(choices, Range):
        return trial.suggest_categorical(name, choices)
    if choices.whole:
        return trial.suggest_int(
            name, int(choices.low), int(choices.high), log=choices.log, step=int(choices.step or 1)
        )
    value = trial.suggest_float(name, choices.low, choices.high, log=choices.log, step=choices.step)
    return value if choices.step is None else round(value, DIGITS)
