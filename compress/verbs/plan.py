"""`--dry-run`: what would be built, measured and scored, and about how long that takes; nothing of it is done."""

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.console import Console

from baselines.classifier import Classifier
from baselines.recipe import TrainConfig
from compress.checkpoints import initial
from compress.evaluate import Candidate, Images, take_test_images
from compress.evaluate.elimination import HEAVY, SAMPLE, SHALLOW, SHALLOW_S
from compress.evaluate.evaluation import SHORT_S
from compress.outcome import Outcome
from compress.tables import Findings
from compress.training.run import Run
from compress.variant import Variant
from compress.verbs import bench as bench_
from compress.verbs.quantize.recipes import Recipe
from compress.verbs.quantize.request import Request
from compress.verbs.quantize.source import identify

TIMED = 32  # images of the batch that says how long one takes
PASSES = 3
CALIBRATION_PASSES = 2  # over the images, for each method; the fallback dtype is of the engine
STEP = 3.0  # times of a forward pass that a step of training takes


def plan_quantize(
    request: Request,
    recipes: Sequence[Recipe],
    candidates: Sequence[Candidate],
    model: Classifier,
    images: Images,
    speeds: dict[str, float],
    console: Console,
) -> Outcome:
    """Prints the candidates of `compress quantize`, in the order of the work, and the time they take.

    Args:
        model: the dense one.
        speeds: speed-ups of an earlier run, by name of the recipe.
    """
    each_s = time_model(model, images)
    heavy = any(each.dense and each.cost is not None and each.cost().dense >= HEAVY for each in candidates)
    entries = [
        {
            "candidate": each.name,
            "built": _when_built(each, heavy, exhaustive=request.exhaustive),
            "speed-up before": f"{speeds[recipe.name]:.2f}x" if recipe.name in speeds else "",
        }
        for each, recipe in zip(candidates, recipes, strict=True)
    ]
    count, sample = len(images), min(SAMPLE, len(images))
    known = [max(speeds.get(recipe.name, 1.0), 0.01) for recipe in recipes]
    scored = sum(count / speed for speed in known) if request.exhaustive else (
        sum(sample / speed for speed in known) + count + count / max(known)
    )  # fmt: skip
    calibrations = {identify(recipe.method) for recipe in recipes if recipe.narrow and recipe.method is not None}
    calibrated = request.calibration_images * CALIBRATION_PASSES * len(calibrations)
    late = any(each.slow_to_build for each in candidates) or heavy
    parts = {
        "timing": request.seconds + min(SHORT_S, request.seconds) + (SHALLOW_S if late else 0),
        "scoring": scored * each_s,
        "calibration": calibrated * each_s,
    }
    rule = f"all {count:,}" if request.exhaustive else f"the first {sample} of all, {count:,} from the fastest on"
    return _show(entries, f"test images that are scored: {rule}", parts, "exporting and compiling files", console)


def plan_bench(request: bench_.Request, console: Console) -> Outcome:
    """Prints what `compress bench` trains and measures, and the time it takes.

    Raises:
        InputError: as `bench`.
    """
    wanted, engines, _, run = bench_.open_bench(request, console)
    images = take_test_images(run.data)
    model: Any = run.start[0] if run.start else None
    model = model or initial.make_model(run.config.model, run.config.seed, run.initial, run.data.classes)
    each_s, training, entries = time_model(model.cpu().eval(), images), 0.0, []
    for which in wanted:
        found = [*request.out.glob(f"models/{which.name}-*/best_{which.name}_model.pth")]
        here = bool(found) or (not which.methods and run.start is not None)
        training += 0.0 if here else sum(_count_trained(run, which)) * STEP * each_s
        names = [runtime.name for runtime in engines if bench_.fits(runtime, which, request)]
        state = "there, if of the same settings" if here else "trained" if any(_count_trained(run, which)) else "made"
        entries += [{"candidate": f"{which.name} in {name}", "model": state} for name in names]
    options, count = request.options, len(images)
    parts = {
        "training": training,
        "timing": options.seconds * len(options.devices) * len(options.batch_sizes),
        "scoring": count * each_s * len(entries) * len(options.devices),
    }
    left = "exporting and compiling files" + (", and the plain alternatives" if request.plain else "")
    return _show(entries, f"test images that are scored: all {count:,}", parts, left, console)


@torch.inference_mode()
def time_model(model: Classifier, images: Images) -> float:
    """Seconds that an image takes in torch, in batches: the median of a few."""
    (batch,) = images.batches(TIMED, range(min(TIMED, len(images))))
    spent = []
    for _ in range(PASSES + 1):
        start = time.perf_counter()
        model(torch.from_numpy(batch))
        spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:]) / len(batch)


def _when_built(each: Candidate, heavy: bool, *, exhaustive: bool) -> str:
    if each.unavailable:
        return f"not: {each.unavailable}"
    if exhaustive:
        return "yes"
    if heavy and each.shallow is not None:
        return f"unless {SHALLOW} blocks of it are far slower"
    return "last, unless it is far slower" if each.slow_to_build else "yes"


def _count_trained(run: Run, which: Variant) -> Iterator[int]:
    """Images that pass while a variant is trained, its baseline apart."""
    size = len(run.data.train.labels)

    def count(table: TrainConfig) -> int:
        return table.steps * table.batch_size if table.steps else table.epochs * size

    if not which.methods:
        yield count(run.config.train)
    for method in which.methods:
        if method.from_scratch or method.tuned:
            yield count(run.config.train if method.from_scratch else run.config.finetune)


def _show(entries: list[dict[str, str]], rule: str, parts: dict[str, float], left: str, console: Console) -> Outcome:
    findings = Findings(console)
    headings = list(entries[0]) if entries else []
    findings.show("plan", [[entry[name] for name in headings] for entry in entries], headings)
    total = sum(parts.values())
    named = ", ".join(f"{name} {format_time(seconds)}" for name, seconds in parts.items() if seconds)
    findings.tell("about", [rule, f"about {format_time(total)}: {named}; {left} not counted"])
    console.print("nothing was done; leave out --dry-run to do it")
    return Outcome(facts={"plan": entries, "seconds": {**parts, "total": total}})


def format_time(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
