"""One file: what it is, in which dtype its products really run, and how fast that is against float."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baselines.errors import InputError
from compress import runtimes
from compress.checkpoints.graph_files import check_onnx
from compress.doctor import comparison, reasons
from compress.doctor.machine import flags
from compress.runtimes import Inspection, Runtime
from compress.runtimes.client import Worker, WorkerError
from compress.tables import Findings
from reports import Row
from reports.text import clean

if TYPE_CHECKING:
    from compress.checkpoints.user_models import ModuleConfig


def examine(
    path: Path, threads: int, batch_size: int, usable: Sequence[str], findings: Findings, out: Path | None = None
) -> list[Row] | None:
    """Prints what a file is and does; rows of its comparison with the float file, where there is one.

    Args:
        out: run directory for the rows of its comparison with the float file.
        usable: names of runtimes whose packages work here.

    Raises:
        InputError: missing, damaged, or neither an ONNX file nor a checkpoint of compress.
    """
    check(path)
    if path.suffix == ".onnx":
        return _examine_onnx(path, threads, batch_size, usable, findings, out)
    _examine_checkpoint(path, usable, findings)
    return None


def check(path: Path) -> None:
    """Raises InputError where there is nothing to look into, or what is there must not be opened."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a file in it that ends in .onnx or .pth")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the path of an .onnx or .pth file")
    if path.suffix not in (".onnx", ".pth"):
        raise InputError(f"{path} is neither an .onnx file nor a .pth checkpoint; give one of these")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; create it again")
    if path.suffix == ".onnx":
        check_onnx(path)


def _examine_checkpoint(path: Path, usable: Sequence[str], findings: Findings) -> None:
    from baselines.macs import dense_macs
    from compress import loading
    from compress.checkpoints import checkpoint
    from compress.checkpoints.user_models import ModuleConfig

    code = checkpoint.load(path).config
    if isinstance(code, ModuleConfig):
        _examine_code(path, code, findings)
        return
    which, content = loading.restore(path)[1:]
    config = content.geometry
    findings.show(
        path.name,
        [
            ("variant", which.name),
            ("image", f"{config.channels} x {config.image_size[0]} x {config.image_size[1]}"),
            ("tokens", config.tokens),
            ("depth, dim, heads, mlp_dim", config.summary),
            ("classes", f"{len(content.classes)} ({content.dataset})"),
            ("MACs of an image, all tokens", f"{dense_macs(config):,}"),
            ("file", _size(path)),
        ],
        key="file",
    )
    inspected = _inspect(path, usable, findings)
    if which.dtype in ("int8", "int4"):
        only = "other engines" if all(each.executed == which.dtype for _, each in inspected) else "integer kernels"
        findings.tell("next", [f"{only} need the ONNX file; run: compress export {path}"])


def _examine_code(path: Path, config: "ModuleConfig", findings: Findings) -> None:
    """A checkpoint whose model only the user's code can make, which nothing runs here."""
    height, width = config.image_size
    facts = [("code", config.factory), ("image", f"{config.channels} x {height} x {width}")]
    findings.show(path.name, [*facts, ("classes", config.classes), ("file", _size(path))], key="file")
    findings.tell("next", [f"engines need the ONNX file; run: compress export {path} --model {config.factory}"])


def _examine_onnx(
    path: Path, threads: int, batch_size: int, usable: Sequence[str], findings: Findings, out: Path | None
) -> list[Row] | None:
    from compress.runtimes import ort_graph

    metadata = open_onnx(path)
    try:
        images = ort_graph.make_example(path, batch_size)
        kernels = ort_graph.profile(path, images, threads=threads, calls=comparison.PROFILED_CALLS)
    except ValueError as error:
        raise InputError(f"{path} cannot be run here: {error}; give a model that takes one batch of images") from error
    except Exception as error:  # ONNX Runtime's kinds share no base of their own
        raise InputError(f"{path} cannot be run in ONNX Runtime ({clean(error)}); export it again") from error
    findings.show(
        path.name,
        [
            *describe(metadata),
            ("input", " x ".join(map(str, images.shape))),
            ("MACs of an image", f"{sum(k.macs for k in kernels) // len(images):,}, measured with a random input"),
            ("file", _size(path)),
        ],
        key="file",
    )
    inspected = _inspect(path, usable, findings)
    title = f"time inside kernels, by ONNX Runtime's profiler, batch {len(images)}, threads {threads}"
    findings.show(title, reasons.time_by_op(kernels), ("kernel", "share", "time", "count"), key="kernels")
    if all(inspection.integer_share is None for _, inspection in inspected):
        return None
    before, rows, float_path = [], [], comparison.find_source(path, images, kernels, threads)
    if float_path is not None:
        rows = comparison.compare_files(float_path, path, images, threads, inspected, out, findings.console)
        before = ort_graph.profile(float_path, images, threads=threads, calls=comparison.PROFILED_CALLS)
    bf16 = [name for name in usable if "bf16" in runtimes.get(name).dtypes] if "amx_bf16" in flags() else []
    left = ort_graph.list_quantized_products(ort_graph.optimise_graph(path))[1]
    found = reasons.find_reasons(kernels, left, before, len(images), bf16)
    findings.tell(comparison.judge(rows, float_path), found, key="reasons")
    return rows


def open_onnx(path: Path) -> dict[str, str]:
    """Metadata of an ONNX file that ONNX Runtime takes.

    Raises:
        InputError: it takes it not.
    """
    from compress.runtimes.ort_session import OrtSession

    try:
        session = OrtSession(path, "cpu", 1).session
    except Exception as error:  # ONNX Runtime's kinds share no base of their own
        fault = clean(error).split(" : ")[-1].strip() or type(error).__name__
        raise InputError(f"{path} is not an ONNX file that ONNX Runtime can load ({fault}); export it again") from error
    return dict(session.get_modelmeta().custom_metadata_map)


def describe(metadata: Mapping[str, str]) -> list[tuple[str, Any]]:
    """What our own export wrote into the file; nothing for a foreign one."""
    try:
        facts = {name: json.loads(metadata[name]) for name in ("methods", "dataset", "classes")}
        base = json.loads(metadata.get("model", '"vit"'))
        parts = [*([] if base == "vit" else [str(base)]), *(str(each["name"]) for each in facts["methods"])]
        variant = "_".join(parts) or "vit"
        return [("variant", variant), ("classes", f"{len(facts['classes'])} ({facts['dataset']})")]
    except (KeyError, TypeError, ValueError):
        return [("origin", "not exported by compress")]


def _inspect(path: Path, usable: Sequence[str], findings: Findings) -> list[tuple[Runtime, Inspection]]:
    """What every runtime that takes such a file does with it, shown and returned."""
    found, rows = [], []
    for runtime in map(runtimes.get, usable):
        if not runtime.opens_file(path) or "cpu" not in runtime.devices():
            continue
        try:
            with Worker.start(runtime.name, path, "cpu", 1) as worker:
                each = worker.inspect()
        except WorkerError as error:
            rows.append((runtime.name, "", "", f"cannot load it: {str(error).strip().splitlines()[0]}"))
            continue
        if each.executed.removesuffix("-simulated") in runtime.dtypes | runtime.simulated_dtypes:
            found.append((runtime, each))
            share = "" if each.integer_share is None else f"{each.integer_share:.1%}"
            rows.append((runtime.name, each.executed, share, "; ".join(each.notes)))
    title, headings = f"dtypes of {path.name} by engine", ("runtime", "executed", "MACs in integers", "")
    findings.show(title, rows, headings, key="numbers")
    return found


def _size(path: Path) -> str:
    """Megabytes."""
    return f"{runtimes.count_bytes(path) / 1e6:.2f} MB"
