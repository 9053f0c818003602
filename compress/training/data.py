"""Data sets by name, and the training images that calibrate models and check exports."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines import sources
from baselines.classifier import Classifier
from baselines.data import Data
from baselines.errors import InputError
from baselines.resizing import Resizing
from baselines.subset import Subset, cut
from baselines.vit import VisionTransformer
from compress.checkpoints.checkpoint import Checkpoint
from compress.importers import Hints, list_normalizations
from compress.importers.normalization import DATA, Normalization
from compress.training.class_order import Trial, choose_order, find_near_chance, list_orders, try_order

PARITY_IMAGES = 64
BATCH = 128
PROBED = 256  # training images, on which a normalization is chosen
LOOKED_AT = 64  # training images, on which a model is compared with chance


def load_data(
    name: str | Data,
    image_size: tuple[int, int],
    channels: int,
    out: Path,
    subset: Subset | None = None,
    say: Callable[[str], Any] = lambda _: None,
    resizing: Resizing | None = None,
    skip_unreadable: bool = False,
) -> Data:
    """A data set by its name, or one that is there already, cut to `subset`.

    A checkpoint keeps the name alone: `quantize` and `export` take images of the whole set, whose training images hold
    those the model learned from, and whose test images it never saw.

    Args:
        out: the run directory, which takes downloads.
        say: takes lines for the person at the terminal: how the files of a folder were chosen and read.
        resizing: how the model's images got to its size; None where its file does not say.
        skip_unreadable: leave out images of folders that cannot be read.
    """
    if isinstance(name, Data):
        data = name
    else:
        data = sources.load(name, image_size, channels, out / "data", resizing, skip_unreadable=skip_unreadable)
    for note in data.notes:
        say(f"{data.name}: {note}")
    return cut(data, subset) if subset else data


def check_classes(path: Path | None, classes: tuple[str, ...], data: Data) -> None:
    """Raises InputError where a checkpoint knows other classes than a data set."""
    if classes != data.classes:
        raise InputError(
            f"{path} knows {len(classes)} classes ({', '.join(classes[:3])}, ...), {data.name} has {len(data.classes)} "
            f"({', '.join(data.classes[:3])}, ...); give the data it was trained on with --data"
        )


def adapt_to_data(
    path: Path, model: Classifier, content: Checkpoint, data: Data, hints: Hints, say: Callable[[str], Any]
) -> tuple[Checkpoint, Data]:
    """What a file of another library does not say, from the data set; and the images as the model knows them.

    Class names come from the data set, in the order of the folders or, where the model knows labelled training images
    surely better so, in that of another library. A normalization that nobody names is the one, of those that are in
    use, with which it knows them best.

    Args:
        model: of the checkpoint. Its classes are put into the order of the data set, where only that differs.

    Raises:
        InputError: the data set has other classes, or `hints` name no normalization.
    """
    if content.choice:
        say(f"{path}: {content.choice}")
    unsaid = not content.classes and not content.random
    data = data.with_classes(content.config.classes) if content.random else data  # where they mean nothing
    content, data = match_classes(path, model, content, data, say)
    if data.normalized and not content.mean:
        content = replace(content, mean=data.mean, std=data.std)
    known = {"": (content.mean, content.std)}
    if hints.normalize is not None or not content.mean:
        known = {**list_normalizations(hints.normalize, len(data.mean)), DATA: (data.mean, data.std)}
        if hints.normalize is not None:
            known = {hints.normalize: known[hints.normalize]}
    orders = list_orders(data.classes) if unsaid and not content.pretrained else {}
    name = next(iter(known))
    if len(known) > 1 or orders:
        name, order = _choose_reading(model, data, known, orders, path, say)
        if order != data.classes and isinstance(model, VisionTransformer):
            content, data = match_classes(path, model, replace(content, classes=order), data, say)
    mean, std = known[name]
    resizing = content.resizing or data.resizing
    content = replace(content, mean=mean, std=std, resizing=resizing, dataset=content.dataset or data.name)
    data = data.with_normalization(mean, std)
    if not (len(known) > 1 or orders or content.pretrained or content.random):
        _check_chance(model, data, path, say)
    return content, data


def match_classes(
    path: Path, model: Classifier, content: Checkpoint, data: Data, say: Callable[[str], Any]
) -> tuple[Checkpoint, Data]:
    """Names of the classes, which are as many, and in the same order, afterwards."""
    if not content.classes:
        if content.config.classes != len(data.classes):
            raise InputError(
                f"{path} tells {content.config.classes} classes apart, {data.name} has {len(data.classes)}; give "
                "images of its own classes with --data"
            )
        return replace(content, classes=data.classes), data
    others = content.classes != data.classes and len(content.classes) == len(data.classes)
    if content.origin is None or not others or not isinstance(model, VisionTransformer):
        check_classes(path, content.classes, data)
        return content, data
    if set(content.classes) == set(data.classes):
        order = torch.tensor([content.classes.index(name) for name in data.classes])
        state = dict(content.state)
        for name, parameter in model.named_parameters():
            if name.startswith(("head.", "distill_head.")):
                state[name] = parameter.data = parameter.data[order]
        return replace(content, classes=data.classes, state=state), data
    if set(content.classes) & set(data.classes):
        check_classes(path, content.classes, data)
    say(
        f"{path} calls its classes {content.classes[0]}, {content.classes[1]}, ..., {data.name} calls them "
        f"{data.classes[0]}, {data.classes[1]}, ...: taken to be the same, in this order"
    )
    return content, replace(data, classes=content.classes)


@torch.inference_mode()
def _choose_reading(
    model: Classifier,
    data: Data,
    known: Mapping[str, Normalization],
    orders: Mapping[str, tuple[str, ...]],
    path: Path,
    say: Callable[[str], Any],
) -> tuple[str, tuple[str, ...]]:
    """The normalization with which the model gives training images the likeliest answers, and the order of its classes.

    Args:
        orders: in which its classes may be, beside that of the data set.
    """
    chosen, answers, labels = shuffle_indices(data)[:PROBED], {}, torch.empty(0)
    for name, (mean, std) in known.items():
        batches = data.with_normalization(mean, std).batches(data.train, BATCH, torch.device("cpu"), indices=chosen)
        logits, all_labels = zip(*((model(images), labels) for images, labels in batches), strict=True)
        answers[name], labels = torch.cat(logits), torch.cat(all_labels)
    default = try_order(data.classes, "", data.classes, answers, labels)
    others = [try_order(data.classes, name, order, answers, labels) for name, order in orders.items()]
    taken = choose_order(default, others)
    best = taken.normalization
    if len(known) > 1:
        told = ", ".join(f"{name} {right.mean():.1%}" for name, right in taken.right.items())
        say(
            f"{path} records no normalization (--normalize): {best} is the most accurate on {len(chosen)} training "
            f"images (top-1: {told})"
        )
    if taken is not default:
        _say_order(model, taken, default, path, say)
    elif default.best.mean() < find_near_chance(len(data.classes)):
        say("accuracy is near chance: check --data, the order of the classes and --heads")
    return best, taken.order


@torch.inference_mode()
def _check_chance(model: Classifier, data: Data, path: Path, say: Callable[[str], Any]) -> None:
    """Warns of a model that does not know its images, before an hour is spent on it."""
    batches = data.batches(data.train, BATCH, torch.device("cpu"), indices=shuffle_indices(data)[:LOOKED_AT])
    right = torch.cat([model(images).argmax(1) == labels for images, labels in batches]).double().mean().item()
    if right < find_near_chance(len(data.classes)):
        say(
            f"the accuracy of {path} is near chance ({right:.1%} of {min(LOOKED_AT, len(data.train.labels))} training "
            "images): check --data and the order of the classes"
        )


def _say_order(model: Classifier, taken: Trial, default: Trial, path: Path, say: Callable[[str], Any]) -> None:
    what = "so they are taken" if isinstance(model, VisionTransformer) else "name the folders so that they sort like it"
    say(
        f"{path} does not name its classes: {taken.best.mean():.1%} of {len(taken.best)} training images are right "
        f"with them in {taken.called} order ({', '.join(taken.order[:3])}, ...), {default.best.mean():.1%} in that of "
        f"the folders ({', '.join(default.order[:3])}, ...): {what}"
    )


def sample_images(data: Data, count: int, seed: int = 0) -> list[Tensor]:
    """Normalized training images, chosen by a seed, on the CPU, in batches of up to 128."""
    chosen = shuffle_indices(data, seed)[:count]
    return [images for images, _ in data.batches(data.train, BATCH, torch.device("cpu"), indices=chosen)]


def sample_held_out_images(
    data: Data, count: int, after: int, among: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Training images and their labels, as `sample_images` gives them, none of which is among its first `after`.

    Args:
        among: indices of the images that count; all by default. Where none of them is left, there are no batches.

    Raises:
        InputError: all images calibrate.
    """
    chosen = shuffle_indices(data)[after:]
    if among is not None:
        chosen = chosen[torch.isin(chosen, among)]
        if not len(chosen):
            return []
    chosen = chosen[:count]
    if not len(chosen):
        raise InputError(
            f"{data.name} has {len(data.train.labels)} training images and all of them calibrate; "
            "lower --calibration-images, so that others can judge"
        )
    return list(data.batches(data.train, BATCH, torch.device("cpu"), indices=chosen))


def describe_calibration(data: Data, count: int) -> dict[str, Any]:
    """How many images `sample_images` gives, and the SHA-256 of their indices and uint8 pixels, in hexadecimal."""
    chosen = shuffle_indices(data)[:count]
    digest = hashlib.sha256(chosen.numpy().astype("<i8").tobytes())
    for images in data.train.fetch(list(chosen.split(BATCH)), torch.device("cpu")):
        digest.update(images.numpy().tobytes())
    return {"images": len(chosen), "sha256": digest.hexdigest()}


def shuffle_indices(data: Data, seed: int = 0) -> Tensor:
    """Indices of all training images, shuffled."""
    return torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(seed))


def sample_parity_images(data: Data) -> Tensor:
    """Training images for the check of an exported graph, (n, C, height, width); few ones come again and again."""
    from compress.exporters.onnx import PARITY_BATCHES  # imports onnx, which few verbs need

    images = torch.cat(sample_images(data, PARITY_IMAGES))
    return images.repeat(-(-sum(PARITY_BATCHES) // len(images)), 1, 1, 1)
