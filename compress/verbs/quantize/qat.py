"""`compress quantize --mode qat`: the model learns to live with its rounding, and goes on where it was stopped."""

import torch
from rich.console import Console

from baselines.classifier import Classifier
from compress import files, loading
from compress.checkpoints import checkpoint
from compress.checkpoints.checkpoint import StateFile
from compress.config import BenchConfig
from compress.methods import Qat
from compress.training import finetuning
from compress.training.curves import Curves
from compress.verbs.quantize.request import Request
from compress.verbs.quantize.source import Source


def train(request: Request, settings: BenchConfig, source: Source, method: Qat, console: Console) -> Classifier:
    """The trained model, not converted; also written beside the checkpoint, as `<name>.qat.pth`.

    The float model is the teacher. A state is kept after every epoch under a name made of all that decides on it.
    """
    stem = request.path.with_suffix("")
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
    done, new = source.which.methods, [method]
    with Curves(Qat.name, stem.with_name(f"{stem.name}.qat.jsonl"), console.print, None) as log:
        model, _ = finetuning.apply(
            source.model,
            done,
            new,
            source.data,
            teacher=source.model,
            training=settings.finetune,
            calibration=source.calibration,
            device=torch.device("cpu"),
            seed=settings.seed + 1,
            title="training qat",
            snapshot=state,
            log=log,
        )
    target = stem.with_name(f"{stem.name}.qat.pth")
    config = source.content.config
    checkpoint.save(target, loading.pack(model, [*done, *new], source.data, config, calibration=source.calibrated_on))
    state.remove()
    console.print(f"wrote {target}; next time: compress export {target}")
    return model
