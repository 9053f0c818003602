"""`compress quantize CHECKPOINT`: a float model -> the fastest integer file this machine can make of it.

The same 8 bits run at 0.3 to 5 times the speed of float32, depending on nothing but the way to a file and its engine.
So every way there is gets built, scored on the test images and timed, all in turns; the fastest that keeps the accuracy
stays, and the choice is remembered for the next model of that geometry on this machine (`choices.py`).
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from baselines.data import Data
from baselines.errors import InputError
from baselines.subset import Part
from baselines.vit import VisionTransformer, ViTConfig
from compress import files, loading
from compress.evaluate import choices
from compress.evaluate.choices import Choice
from compress.evaluate.rows import FEW_IMAGES
from compress.measure import cost, environment
from compress.methods import Int8, Qat
from compress.runtimes import Runtime
from compress.training.data import describe_calibration, held_out_images, load_data, sample_images, settle
from compress.verbs.quantize import goal, study, training
from compress.verbs.quantize.race import Entry, Source, identity, race
from compress.verbs.quantize.request import Request, check_architecture, engines, lowerings, method_of, settings
from compress.verbs.quantize.verdict import Judged, choose, judge, table

__all__ = ["Request", "quantize"]

JUDGED = 1000  # training images on which an accuracy goal is judged


def quantize(request: Request, console: Console) -> int:
    """Prints before and after for every lowering, and writes the file that is kept beside the checkpoint.

    Returns:
        0, or 1 where no integer file keeps the accuracy; nothing is written then.

    Raises:
        InputError: the checkpoint, the data or the options cannot be used.
    """
    torch.set_num_threads(request.threads)
    environment.settle_allocator()
    model, which, content = loading.restore(request.path, request.hints)
    if which.numbers != "fp32":
        raise InputError(f"{request.path} is already {which.name!r}; give the checkpoint of a float model")
    vit = model if isinstance(model, VisionTransformer) else None
    check_architecture(request, content)
    found = settings(request, content)
    method, usable = method_of(request, found), engines(request, elsewhere=vit is None)
    whole = load_data(found.data, content.config.image_size, content.config.channels, request.path.parent, found.subset)
    content, data = settle(request.path, model, content, whole, request.hints, console.print)
    calibration = sample_images(data, request.calibration_images)
    seen = describe_calibration(data, request.calibration_images)
    if seen["images"] < FEW_IMAGES:
        console.print(f"ranges come from {seen['images']} images: fewer than {FEW_IMAGES} leave much to chance")
    source = Source(model, which, content, data, calibration, seen)
    scored = _scored(data, request.test_images)
    if request.study:
        assert isinstance(method, Int8)
        assert vit is not None
        console.print(study.table(study.study(vit, method, scored)))
        return 0
    ranking = None
    if request.sensitivity:
        assert isinstance(method, Int8)
        assert vit is not None
        ranking = goal.sensitivities(vit, method, calibration)
        console.print(goal.ranking_table(ranking))
        if request.max_drop is None:
            return 0
    if isinstance(method, Qat):
        source.made[identity(method)] = training.train(request, found, source, method, console)
    elif request.max_drop is not None:
        assert vit is not None
        judged = held_out_images(data, JUDGED, request.calibration_images)
        reached = goal.find(vit, method, calibration, judged, request.max_drop, ranking)
        console.print(goal.explain(reached))
        if not reached.reached:
            return 1
        method = reached.method
    return _lower(request, source, method, usable, scored, console)


def _scored(data: Data, count: int | None) -> Data:
    """The data with fewer test images, drawn by a fixed seed."""
    if count is None or count >= len(data.test.labels):
        return data
    chosen = torch.randperm(len(data.test.labels), generator=torch.Generator().manual_seed(0))[:count].sort().values
    return replace(data, test=Part(data.test, chosen))


def _lower(
    request: Request, source: Source, method: Int8 | Qat, usable: list[Runtime], scored: Data, console: Console
) -> int:
    """Measures the lowerings, or the one that won before, and keeps the best file."""
    images_decide = not cost.measure(source.model, scored).fixed
    elsewhere = not isinstance(source.model, VisionTransformer)
    wanted = lowerings(request.mode, method, usable, images_decide=images_decide, elsewhere=elsewhere)
    shape = source.content.config.model_dump(exclude={"factory"})
    if elsewhere:  # its name says little
        shape["shapes"] = {name: list(value.shape) for name, value in source.content.state.items()}
    names = [each.name for each in wanted]
    key = choices.key(shape, source.which.describe(), names, request.batch_size, request.threads)
    before = None if request.remeasure else choices.load().get(key)
    if before is not None:
        console.print(
            f"{before.chosen} was chosen out of {len(before.tried)} files of such a model on this machine "
            f"({before.time_utc}); --remeasure makes all of them again"
        )
        wanted = [each for each in wanted if (not each.whole and each.method is None) or each.name == before.chosen]
    with tempfile.TemporaryDirectory() as folder:
        entries = race(
            source,
            wanted,
            scored,
            Path(folder),
            batch_size=request.batch_size,
            threads=request.threads,
            seconds=request.seconds,
            say=console.print,
        )
        judged = judge(entries, scored.test.labels.numpy())
        _show(request, source, judged, entries, scored, console)
        best, why = choose(judged, None if request.max_drop is None else request.max_drop / 100)
        console.print(why)
        if best is None:
            if before is not None:
                console.print("others were not made; --remeasure tries them too")
            return 1
        written = _keep(request, best, judged)
    if before is None:
        choices.remember(key, _choice(request, source, best, why, judged))
    console.print(f"wrote {' and '.join(map(str, written))}")
    return 0


def _show(
    request: Request, source: Source, judged: list[Judged], entries: list[Entry], scored: Data, console: Console
) -> None:
    failed = [entry for entry in entries if entry.failed is not None]
    console.print(table(judged, failed, f"{source.which.name} in 8 bits", request.batch_size))
    for each in judged:
        for note in each.entry.inspection.notes if each.entry.inspection else ():
            console.print(f"{each.name}: {note}")
    console.print(
        f"measured on {environment.cpu_name()}, threads {request.threads}, {len(scored.test.labels):,} test images of "
        f"{scored.name}; calibrated on {source.seen['images']} training images ({source.seen['sha256'][:12]})"
    )


def _keep(request: Request, best: Judged, judged: list[Judged]) -> list[Path]:
    """Copies the file that is kept beside the checkpoint, and the float ONNX file where there is one."""
    stem, made = request.path.with_suffix(""), best.entry.path
    target = stem.with_name(f"{stem.name}.int8{made.suffix}")
    contents = {target: made.read_bytes()}
    if made.suffix == ".xml":
        contents = {target.with_suffix(".bin"): made.with_suffix(".bin").read_bytes(), **contents}
    plain = next((each for each in judged if not each.entry.lowering.whole and each.entry.path.suffix == ".onnx"), None)
    if plain is not None and plain.entry.lowering.method is None:
        contents = {stem.with_name(f"{stem.name}.onnx"): plain.entry.path.read_bytes(), **contents}
    files.write_together(contents)
    return list(contents)


def _choice(request: Request, source: Source, best: Judged, why: str, judged: list[Judged]) -> Choice:
    config, what = source.content.config, "x".join(map(str, source.content.config.image_size))
    if isinstance(config, ViTConfig):
        what = f"{config.dim} x {config.depth}, {config.tokens} tokens"
    return Choice(
        model=f"{source.which.name} {what}",
        machine=environment.cpu_name(),
        batch_size=request.batch_size,
        threads=request.threads,
        chosen=best.name,
        speedup=best.speedup[0],
        why=why,
        tried={each.name: round(each.speedup[0], 3) for each in judged},
    )
