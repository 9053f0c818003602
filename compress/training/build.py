"""Baselines, variants and artifacts of a run: found where they were made before, or else trained, compressed and built.

OUT/best_vit_model.pth, best_vit_distill_model.pth, pretrained_vit_model.pth    copies of the newest
OUT/models/<variant>-<hash>/best_<variant>_model.pth, training.jsonl, state.pt while training, teacher.json, and
                            artifacts: <variant>.pth, <variant>.onnx
OUT/tensorboard/<variant>-<hash>/            event files, where they are asked for
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from baselines import pretrain
from baselines.classifier import Classifier
from baselines.guided import GuidedTrainer
from baselines.pretrain import Pretrainer
from baselines.train import TrainConfig, Trainer, fit
from baselines.vit import VisionTransformer
from compress import __version__, files, loading
from compress.checkpoints import checkpoint, initial
from compress.checkpoints.checkpoint import Checkpoint, StateFile
from compress.methods import Method
from compress.runtimes import BuildInputs, Runtime
from compress.training import curves, finetuning, teacher
from compress.training.curves import Curves, Record
from compress.training.data import describe_calibration
from compress.training.run import Run
from compress.variant import Variant, make_method

STUDENT, PRETRAINED = "vit_distill", "pretrained_vit"  # baselines that learned otherwise than from labels alone
Trained = tuple[Classifier, list[Record]]


@dataclass(frozen=True)
class Built:
    """A trained model on disk."""

    variant: Variant
    path: Path  # of its checkpoint
    key: str  # hash of all it depends on
    pretrained: bool = False  # has seen no labels

    @cached_property
    def restored(self) -> tuple[Classifier, Variant, Checkpoint]:
        """The model on the CPU, not to be changed, and its checkpoint; read once, until `release`."""
        return loading.restore(self.path)

    def release(self) -> None:
        """Lets go of the memory that `restored` holds."""
        vars(self).pop("restored", None)


def make_baseline(run: Run) -> Built:
    """The dense model: the checkpoint that was given, or one that is trained here, maybe from the user's code."""
    settings = run.config.train
    if run.start:
        content = run.start[2]
        parts: list[Any] = [content.config.model_dump(), checkpoint.hash_state(content.state)]
        if run.start_learns:
            parts += [settings.model_dump(), run.config.seed]
            return _make_dense(run, _locate(run, run.baseline, parts), settings)
        built = _locate(run, run.baseline, parts)
        run.store.get_or_make(built.path, lambda path: checkpoint.save(path, content))
        return built
    return _make_dense(run, _locate(run, Variant(()), _dense_parts(run, settings)), settings)


def pretrain_baseline(run: Run) -> Built:
    """The dense model after it learned as `[pretrain]` says, without labels: its head knows nothing."""
    settings = run.config.pretrain
    pretrain.check(settings, run.config.model)
    built = _locate(run, Variant(()), ["pretrained", *_dense_parts(run, settings)], PRETRAINED, pretrained=True)
    return _make_dense(run, built, settings, Pretrainer)


def train_student(run: Run, method: Method) -> Built:
    """The dense model, trained from scratch with the images of `make_baseline`, that learns as `method` says too.

    It ends as a plain baseline: what it learned from leaves no trace in its structure.
    """
    settings, train = method.model_dump(exclude={"teacher"}), run.config.train
    (file,), (weights,) = teacher.list_files([method]), teacher.hash_files([method])
    parts = _dense_parts(run, train)
    parts[3:3] = [settings, weights]  # before the weights that training begins with
    built = _locate(run, Variant(()), [STUDENT, *parts], STUDENT)

    def learn(model: VisionTransformer, *given: Any) -> GuidedTrainer:
        """The `Trainer` of a student; of what it is given terms and teacher are empty."""
        data, config, device, seed, _, _, *others = given
        master, which = run.world.share(lambda: teacher.read(file, data))
        run.say(f"teacher {file}: {which.name}")
        if run.world.rank == 0:
            record = {"teacher": str(file), "sha256": weights, "variant": which.name, **settings}
            files.write(built.path.with_name("teacher.json"), json.dumps(record, indent=2) + "\n")
        master = master.to(device).eval()
        start = finetuning.make_trainer([method], model, master)
        return start(model, data, config, device, seed, [method.loss_terms], master, *others)

    return _make_dense(run, built, train, learn)


def make_variant(run: Run, variant: Variant, baseline: Built | None = None) -> Built:
    """A variant, stage by stage; each begins with what the one before made, the first with `baseline`."""
    built = baseline = baseline or make_baseline(run)
    for stage in variant.training_steps:
        known = built.variant.methods
        new = [_settle(run, method, built) for method in stage.methods[len(known) :]]
        built = _make_stage(run, replace(stage, methods=(*known, *new)), built, baseline)
    return built


def make_artifact(run: Run, built: Built, runtime: Runtime) -> Path:
    """The file that `runtime` runs."""

    def build(path: Path) -> None:
        run.say(f"building {path.name} for {runtime.name}")
        runtime.build(BuildInputs(*built.restored, run.sample_parity_images, run.calibration), path)

    return run.store.get_or_make(built.path.with_name(built.variant.name + runtime.suffix), build)


def _locate(run: Run, variant: Variant, parts: list[Any], name: str = "", *, pretrained: bool = False) -> Built:
    """Where a model lies that depends on `parts`, on the data and on the version of this program."""
    key, name = files.key(__version__, run.data.name, run.data.fingerprint, variant.name, *parts), name or variant.name
    file = f"{name}_model.pth" if pretrained else f"best_{name}_model.pth"
    return Built(variant, run.store.place(name, key, file), key, pretrained)


def _dense_parts(run: Run, settings: TrainConfig) -> list[Any]:
    """All that a training of the baseline depends on."""
    parts = [run.config.model.model_dump(), settings.model_dump(), run.config.seed]
    return [*parts, run.initial.key] if run.initial else parts


def _make_dense(run: Run, built: Built, settings: TrainConfig, trainer: Callable[..., Trainer] = Trainer) -> Built:
    what = "pretraining vit" if built.pretrained else f"training {built.variant.name}"

    def train(**options: Any) -> Trained:
        model: Any = run.start[0] if run.start else None
        model = model or initial.make_model(run.config.model, run.config.seed, run.initial, run.data.classes)
        length = f"{settings.steps} steps" if settings.steps else f"{settings.epochs} epochs"
        many = f"{run.world.size} x " if run.world.size > 1 else ""
        run.say(f"{what} on {run.data.name}: {length} on {many}{run.device.type}")
        options |= {"seed": run.config.seed, "title": what, "trainer": trainer}
        return model, fit(model, run.data, settings, **options)

    _get_or_train(run, built, train)
    run.store.publish(built.path, built.path.name)
    return built


def _settle(run: Run, method: Method, before: Built) -> Method:
    """A method with the settings that it finds on training images, once for a model, in a file of their own."""
    if not method.searches:
        return method
    name = f"{before.variant.name}_{method.name}"
    key = files.key(before.key, method.name, method.model_dump(), run.config.calibration_images)

    def find(path: Path) -> None:
        run.say(f"looking for the settings of {method.name} on {run.config.calibration_images} training images")
        found = run.world.share(lambda: method.settle(before.restored[0], run.calibration))
        if run.world.rank == 0:
            files.write(path, found.model_dump_json() + "\n")

    path = run.store.get_or_make(run.store.place(name, key, "settings.json"), find)
    return make_method(method.name, json.loads(run.world.share(path.read_text)))


def _make_stage(run: Run, stage: Variant, before: Built, baseline: Built) -> Built:
    """What `before` is, with the methods that the stage adds."""
    config, total = run.config, len(run.data.train.labels)
    finetune = finetuning.hold_out_for_choice(config.finetune, total) if run.start else config.finetune
    competes = run.start is not None and finetune.validation > 0
    parts = [baseline.key, stage.describe(), config.calibration_images, *teacher.hash_files(stage.methods)]
    if any(method.from_scratch for method in stage.methods):
        parts.append(config.train.model_dump())
    if any(method.tuned for method in stage.methods):
        parts += [finetune.model_dump(), config.seed]
    built = _locate(run, stage, parts)

    def train(**options: Any) -> Trained:
        model, done, _ = run.world.share(lambda: before.restored)
        new = stage.methods[len(done.methods) :]
        what = "training" if any(method.tuned for method in new) else "calibrating"
        run.say(f"{what} {stage.name}")
        anew = any(method.from_scratch for method in new)
        torch.manual_seed(config.seed)  # of new weights, where there are any
        model, history = finetuning.apply(
            model,
            done.methods,
            new,
            run.data,
            teacher=run.world.share(lambda: teacher.choose(stage.methods, baseline.path, run.data)),
            training=config.train if anew else finetune,
            start_competes=competes and not anew,
            calibration=run.calibration,
            seed=config.seed + (not anew),
            title=f"{what} {stage.name}",
            **options,
        )
        if history and "before_validation_top1" in history[0]:
            run.say(f"  {stage.name}: {finetuning.describe_choice(history, round(finetune.validation * total))}")
        return model, history

    return _get_or_train(run, built, train)


def _get_or_train(run: Run, built: Built, train: Callable[..., Trained]) -> Built:
    """The model at its place.

    Args:
        train: takes as keywords what `fit` and `finetuning.apply` are told about where and how to work.
    """

    def make(path: Path) -> None:
        state, started = StateFile(path.with_name("state.pt")), time.perf_counter()
        run.began(state)
        board = run.store.folder / "tensorboard" / path.parent.name if run.tensorboard else None
        with Curves(built.variant.name, path.with_name("training.jsonl"), run.say, board) as log:
            model, history = train(device=run.device, snapshot=state, log=log, world=run.world)
        if run.world.rank == 0:
            _keep(run, built, model, history, started)
            state.remove()

    if run.restart is not None:
        run.store.discard(built.path, whole=built.variant.name == run.restart.name)
    run.store.get_or_make(built.path, make)
    return built


def _keep(run: Run, built: Built, model: Classifier, history: list[Record], started: float) -> None:
    """The checkpoint last: where it stands, the work is whole."""
    if history:
        curves.write(built.path.with_name("training.jsonl"), history)
        seen = sum(record["images_per_s"] * record["seconds"] for record in history)
        speed = seen / sum(record["seconds"] for record in history)
        run.say(f"  {built.variant.name} done in {time.perf_counter() - started:.0f} s, {speed:,.0f} images/s")
    methods = built.variant.methods
    seen = describe_calibration(run.data, run.config.calibration_images) if methods else None
    packed = loading.pack(model, methods, run.data, model.config, calibration=seen)
    checkpoint.save(built.path, replace(packed, dataset=run.config.data, pretrained=built.pretrained))
