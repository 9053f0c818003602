"""What makes models smaller or faster and measures them: `quantize`, `prune`, `halt`, `search`, `bench` for Python."""

from pathlib import Path
from typing import Any

from baselines.errors import InputError
from compress import config
from compress import runtimes as engines
from compress.api.results import Result
from compress.api.work import Work, begin_work
from compress.checkpoints import checkpoint
from compress.evaluate import Options
from compress.measure.environment import available_cpus
from compress.outcome import Outcome
from compress.verbs import bench as bench_
from compress.verbs import prune as prune_
from compress.verbs import quantize as quantize_


def quantize(
    model: Any,
    data: Any = None,
    *,
    test: Any = None,
    out: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
    runtimes: tuple[str, ...] = (),
    threads: int | None = None,
    **options: Any,
) -> Result:
    """The fastest integer file of a model that this machine can make and that keeps the accuracy.

    Args:
        model: module or checkpoint; it is not changed.
        data: images that set the ranges; None: those that the checkpoint names.
        test: images that are scored; None: a fifth of `data`, or the test split of a named data set.
        out: folder for the file and the rows; None: a temporary one, which lives as long as the result.
        image_size: height and width, of a module that does not say it.
        verbose: whether progress is told on standard error.
        runtimes: engines to try; all that multiply integers here without.
        threads: that the model may use; all of this machine without.
        options: further fields of `compress.verbs.quantize.Request`, such as max_drop (points of top-1), batch_size,
            device (cpu, which is the default, or cuda), calibration_images, test_images, skip, mode, exhaustive.

    Returns:
        Rows of all candidates; `path` is None where no integer file keeps the accuracy.

    Raises:
        InputError: model, images or options cannot be used.
    """
    work = begin_work(model, data, test, out, image_size, verbose=verbose)
    request = quantize_.Request(
        path=work.source.path,
        images=work.data,
        hints=work.source.hints,
        out=work.folder,
        runtimes=runtimes,
        threads=threads or available_cpus(),
        **options,
    )
    return _make_result(quantize_.quantize(request, work.console), work)


def prune(
    model: Any,
    data: Any = None,
    *,
    method: str = "topk",
    test: Any = None,
    out: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
    threads: int | None = None,
    epochs: int = 0,
    batch_size: int = 1,
    device: str = "auto",
    seed: int | None = None,
    force: bool = False,
    learned: bool = False,
    **amounts: float | str,
) -> Result:
    """A Vision Transformer that removes or merges tokens, or lost whole structures, beside what it was.

    Args:
        method: topk, tome or dynamicvit (tokens), slim (structures); avit is `halt`.
        epochs: of fine-tuning; 0: none.
        force: whether a file in `out` that was measured better is replaced.
        learned: whether it is found on training images how many tokens leave in which block (topk, tome).
        amounts: keep (share of the patches; slim: of the weights of the blocks), r (tokens that merge in each block) or
            target_macs (share of the MACs).

    Other arguments are those of `quantize`.

    Returns:
        Rows of the model before and after; `path` is the checkpoint after, which every verb takes.

    Raises:
        InputError: model, images, method or options cannot be used.
    """
    work = begin_work(model, data, test, out, image_size, verbose=verbose)
    request = prune_.Request(
        path=work.source.path,
        verb="halt" if method == "avit" else "prune",
        method=method,
        amounts={name: str(value) for name, value in amounts.items()},
        learned=learned,
        epochs=epochs,
        config=None,
        data=None,
        images=work.data,
        device=device,
        batch_size=batch_size,
        threads=threads or available_cpus(),
        seed=seed,
        out=work.folder,
        resume=True,
        force=force,
        hints=work.source.hints,
    )
    return _make_result(prune_.prune(request, work.console), work)


def halt(model: Any, data: Any = None, **options: Any) -> Result:
    """A Vision Transformer whose tokens stop when they have seen enough (A-ViT); arguments are those of `prune`."""
    return prune(model, data, method="avit", **options)


def search(
    model: Any,
    data: Any = None,
    *,
    max_drop: float | None = None,
    latency: float | str | None = None,
    speedup: float | None = None,
    file: float | str | None = None,
    macs: float | None = None,
    minutes: float = 60,
    test: Any = None,
    out: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
    threads: int | None = None,
    **options: Any,
) -> Result:
    """The file that meets wishes best on this machine, of all methods, numbers and engines; one wish at least is due.

    Args:
        max_drop: points of top-1 that may be lost; the fastest is looked for. Without it, the most accurate is.
        latency: of a batch, in seconds, or as "5ms".
        speedup: over the model in fp32 in PyTorch.
        file: its size in bytes, or as "8MB".
        macs: share of the model's MACs.
        minutes: from the start to the end.
        options: further fields of `compress.verbs.search.Request`, such as epochs, trials, methods, runtimes,
            batch_size, held_out, storage.

    Other arguments are those of `quantize`.

    Returns:
        Rows of test images; `path` is None, and there are no rows, where nothing meets all wishes.

    Raises:
        InputError: model, images, wishes or options cannot be used.
    """
    from compress.verbs import search as search_  # which loads Optuna, and the others need none
    from compress.verbs.search.wishes import parse_wishes

    texts = {
        "max_drop": max_drop,
        "latency_s": f"{latency}s" if isinstance(latency, int | float) else latency,
        "speedup": speedup,
        "file_bytes": f"{file}B" if isinstance(file, int | float) else file,
        "macs": macs,
    }
    wishes = parse_wishes(texts)  # before the model is written
    work = begin_work(model, data, test, out, image_size, verbose=verbose)
    request = search_.Request(
        path=work.source.path,
        wishes=wishes,
        budget_s=60 * minutes,
        images=work.data,
        hints=work.source.hints,
        out=work.folder,
        threads=threads or available_cpus(),
        **options,
    )
    return _make_result(search_.search(request, work.console), work)


def bench(
    model: Any,
    data: Any = None,
    *,
    variants: str | tuple[str, ...] = "vit,int8",
    test: Any = None,
    out: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    verbose: bool = True,
    runtimes: tuple[str, ...] = (),
    settings: str | Path | None = None,
    epochs: int | None = None,
    plain: bool = False,
    **options: Any,
) -> Result:
    """Variants of a model beside each other, with the report that `compress bench` writes.

    Args:
        variants: names, such as "vit,topk,topk_int8".
        settings: TOML file, as `--config` takes it.
        epochs: of fine-tuning; None: those of `settings` or, without, none for methods that work without.
        plain: whether the plain alternatives take part: bf16, torch.compile, a narrower model.
        options: fields of `compress.evaluate.Options`, such as batch_sizes, devices, threads, seconds.

    Other arguments are those of `quantize`.

    Raises:
        InputError: model, images, variants or options cannot be used.
    """
    work = begin_work(model, data, test, out, image_size, verbose=verbose)
    names = tuple(part.strip() for part in variants.split(",")) if isinstance(variants, str) else variants
    content = checkpoint.load(work.source.path, work.source.hints)
    named = work.data.name if work.data else content.dataset
    if not named:
        raise InputError(f"{work.source.path} records no dataset; pass images as data")
    known = config.read(Path(settings) if settings else None, named, known=content.config)
    known = config.override_training(known, "finetune", {"epochs": epochs}) if epochs is not None else known
    options = {"threads": available_cpus(), "seed": known.seed, **options}
    request = bench_.Request(
        config=known.model_copy(update={"variants": names}),
        out=work.folder,
        options=Options(verb="bench", **options),
        runtimes=runtimes,
        checkpoint=work.source.path,
        tunes=settings is not None or epochs is not None,
        plain=plain,
        hints=work.source.hints,
        images=work.data,
    )
    return Result(bench_.bench(request, work.console), work.folder, holds=work.holds)


def _make_result(outcome: Outcome, work: Work) -> Result:
    """The file of the model is the last that is written, but for the rows."""
    path = next((each for each in reversed(outcome.written or ()) if each.suffix != ".jsonl"), None)
    engine = outcome.chosen.runtime if outcome.chosen else ""
    known = path is not None and engine in engines.find_openers(path)
    return Result(list(outcome.rows or ()), work.folder, path, engine if known else "auto", work.holds)
