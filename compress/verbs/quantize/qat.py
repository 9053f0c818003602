"""`compress quantize --mode qat`: the model learns to live with its rounding, and goes on where it was stopped."""

import sys

from rich.console import Console

from baselines.classifier import Classifier
from compress import files, loading, sidecar
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import StateFile
from compress.config import BenchConfig
from compress.evaluate.options import describe_command
from compress.importers.timm_registry import place_files
from compress.methods import Qat
from compress.outcome import Stopped
from compress.sidecar import Origin
from compress.training import finetuning
from compress.training.curves import Curves
from compress.verbs.quantize.request import Request
from compress.verbs.quantize.source import Source


def train(request: Request, settings: BenchConfig, source: Source, method: Qat, console: Console) -> None:
    """Trains the model that recipes take, not converted, and writes it beside the checkpoint, as `<name>.qat.pth`.

    The float model is the teacher. A state is kept after every epoch under a name made of all that decides on it.
    """
    stem = place_files(request.path).with_suffix("")
    target, origin = (
        stem.with_name(f"{stem.name}.qat.pth"),
        Origin.of(request, request.path, describe_command(sys.argv)),
    )
    if not sidecar.check_target(target, origin):
        raise sidecar.refuse(target)
    parts = [
        checkpoint.hash_state(source.content.state),
        source.data.fingerprint,
        method.model_dump(),
        settings.finetune.model_dump(),
        settings.seed,
        source.calibrated_on,
    ]
    state = StateFile(stem.with_name(f"{stem.name}.qat-{files.key(*parts)}.state.pt"))
    if not request.resume:
        state.remove()
    model = source.find_calibrated(method)
    if model is None:
        try:
            model = _fit(request, settings, source, method, state, console)
        except KeyboardInterrupt as stop:
            if not state.path.exists():
                raise
            raise Stopped(
                f"the training state is saved in {state.path}: run the same command again to resume"
            ) from stop
        source.keep_calibrated(method, model.cpu())
    methods = [*source.which.methods, method]
    whole = loading.pack(model, methods, source.data, source.content.config, calibration=source.calibrated_on)
    checkpoint.save(made := source.folder / target.name, whole)
    sidecar.write_files({target: made.read_bytes()}, target, origin)
    state.remove()
    console.print(f"wrote {target}; next time: compress export {target}")


def _fit(
    request: Request, settings: BenchConfig, source: Source, method: Qat, state: StateFile, console: Console
) -> Classifier:
    stem, new = place_files(request.path).with_suffix(""), [method]
    with Curves(Qat.name, stem.with_name(f"{stem.name}.qat.jsonl"), console.print, None) as log:
        model, _ = finetuning.apply(
            source.model,
            source.which.methods,
            new,
            source.data,
            teacher=source.model,
            training=settings.finetune,
            calibration=source.calibration,
            device=source.device,
            seed=settings.seed + 1,
            title="training qat",
            snapshot=state,
            log=log,
        )
    return model
