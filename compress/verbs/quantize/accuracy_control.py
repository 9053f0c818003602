"""int8 that costs no more accuracy than was allowed: layers go back to float until it is so.

As few as are needed, the most harmful first; how many is found by bisection. What judges is in `jury.py`.
"""

from dataclasses import dataclass

from rich.table import Table
from torch import Tensor

from baselines.progress import progress_bar
from baselines.vit import VisionTransformer
from compress import variant
from compress.methods import Int8
from compress.quantization.linear import quantized_layers
from compress.quantization.sensitivity import Sensitivity, compute_logits, rank_layers

RANKED_BATCHES = 1  # of the calibration images, that rank layers: an order needs few
NAMED = 6  # layers that a sentence lists
BLOCKS = "encoder."  # in front of the names that `skip` takes

Judged = list[tuple[Tensor, Tensor]]  # batches of images and their labels


@dataclass(frozen=True)
class Attempt:
    """int8 with some layers in float, and what it costs."""

    method: Int8
    kept: tuple[Sensitivity, ...]  # in float, beside those that were to stay so anyway
    drop: float  # of top-1 against the float model, in points


@dataclass(frozen=True)
class Goal:
    """What was found."""

    attempts: tuple[Attempt, ...]  # in the order in which they were tried
    max_drop: float  # that was allowed, in points
    layers: int  # that the method as given has in integers
    images: int  # that judged
    right: int  # of them, by the float model
    called: str  # what they are

    @property
    def reached(self) -> bool:
        return self.best.drop <= self.max_drop

    @property
    def best(self) -> Attempt:
        """Of those that reach the goal the one with the fewest layers in float, else the one that costs least."""
        reaching = [each for each in self.attempts if each.drop <= self.max_drop]
        if reaching:
            return min(reaching, key=lambda each: len(each.kept))
        return min(self.attempts, key=lambda each: (each.drop, len(each.kept)))

    @property
    def method(self) -> Int8:
        return self.best.method

    @property
    def drop(self) -> float:
        return self.best.drop

    @property
    def tried(self) -> list[tuple[int, float]]:
        """Number of layers in float, and the drop in points."""
        return [(len(each.kept), each.drop) for each in self.attempts]


def find(
    model: VisionTransformer,
    method: Int8,
    calibration: list[Tensor],
    judged: Judged,
    max_drop: float,
    ranking: list[Sensitivity] | None = None,
    called: str = "training images that did not calibrate",
) -> Goal:
    """Keeps as few layers in float as are needed for top-1 to fall by no more than `max_drop` points.

    Every attempt is calibrated and judged as it would ship, so what is returned was seen to reach the goal, however
    the drop goes with the number of layers. At least one layer stays in integers.

    Args:
        model: float, in evaluation mode, not prepared for `method`; it is not changed.
        calibration: normalized training images, each (B, C, height, width), on the model's device.
        judged: other images, with labels, from which the model should not have learned.
        ranking: of the layers, where it is known already.
        called: what the images are that judge.
    """
    right = count_right(model, judged)
    images = sum(len(labels) for _, labels in judged)

    def attempt(kept: list[Sensitivity]) -> Attempt:
        tried = method.model_copy(update={"skip": (*method.skip, *(skip_name(each.name) for each in kept))})
        ready = in_integers(model, tried, calibration)
        return Attempt(tried, tuple(kept), 100 * (right - count_right(ready, judged)) / images)

    attempts = [attempt([])]
    layers = len(quantized_layers(variant.prepare(model, [method])))
    if attempts[0].drop > max_drop:
        ranking = ranking or sensitivities(model, method, calibration)
        missed, enough = 0, layers  # numbers of layers in float; all of them would be no int8
        with progress_bar("keeping layers in float", layers.bit_length(), 0) as advance:
            while enough - missed > 1:
                middle = (missed + enough) // 2
                attempts.append(attempt(ranking[:middle]))
                missed, enough = (missed, middle) if attempts[-1].drop <= max_drop else (middle, enough)
                advance(f"{middle} of {layers}")
    return Goal(tuple(attempts), max_drop, layers, images, right, called)


def sensitivities(model: VisionTransformer, method: Int8, calibration: list[Tensor]) -> list[Sensitivity]:
    """The layers that `method` has in integers, the most harmful first; `model` is not changed."""
    plain = method.model_copy(update={"reconstruct": False, "correct_bias": False})
    ready, whole = (in_integers(model, each, calibration) for each in (method, plain))
    return rank_layers(ready, whole, calibration[:RANKED_BATCHES])


def in_integers(model: VisionTransformer, method: Int8, calibration: list[Tensor]) -> VisionTransformer:
    """A calibrated copy of a float model, not packed."""
    ready = variant.prepare(model, [method]).eval()
    method.calibrate(ready, calibration)
    return ready


def count_right(model: VisionTransformer, judged: Judged) -> int:
    """How many images the model puts into their class."""
    return sum(int((compute_logits(model, [images]).argmax(1) == labels.cpu()).sum()) for images, labels in judged)


def skip_name(name: str) -> str:
    """The name of a layer as `skip` takes it."""
    return name.removeprefix(BLOCKS)


def explain(goal: Goal) -> str:
    """The outcome in words."""
    best, option = goal.best, f"--max-drop {goal.max_drop:g}"
    judged = f"from {goal.right / goal.images:.1%} on {goal.images:,} {goal.called}"
    if not goal.reached:
        most = max(goal.attempts, key=lambda each: len(each.kept))
        sentence = f"{option} cannot be reached: even with {len(most.kept)} of {goal.layers} layers in float top-1 "
        sentence += f"{fall(most.drop)} {judged}."
        return (
            sentence if best.drop == most.drop else f"{sentence} At best, with {len(best.kept)}, it {fall(best.drop)}."
        )
    if not best.kept:
        return f"{option} is met with all {goal.layers} layers in integers: top-1 {fall(best.drop)} {judged}."
    names = [skip_name(each.name) for each in best.kept]
    listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    share = sum(each.share for each in best.kept)
    return (
        f"{option} is met with {len(names)} of {goal.layers} layers in float, {listed}: "
        f"top-1 {fall(best.drop)} {judged}. They hold {share:.1%} of the weights that were to be in integers."
    )


def fall(drop: float) -> str:
    """A change of top-1 in words."""
    if drop == 0:
        return "does not move"
    return f"{'falls' if drop > 0 else 'rises'} by {abs(drop):.2f} points"


def ranking_table(ranking: list[Sensitivity]) -> Table:
    """The layers, the most harmful first, with names that `--skip` takes."""
    table = Table(title="each layer alone in integers, everything else in float")
    for heading in ("layer", "SQNR of the logits, dB", "share of weights"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for each in ranking:
        table.add_row(skip_name(each.name), f"{each.sqnr_db:.1f}", f"{each.share:.1%}")
    return table
