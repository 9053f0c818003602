"""Rows of the ordinary harness on a device: DeiT-S and ViT-B in all numbers, and every token method."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gpu_steps import COMPILE, Rows, Setup
from material import GEOMETRIES, Material, make_noise
from steps import LeftOut

from compress import runtimes, variant
from compress.evaluate import Candidate, Options, evaluate
from compress.methods import Method, Stage
from compress.runtimes.client import Worker

TF32 = {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}  # torch reads it when it starts
IMAGES = 32
PRECISION = 0.02  # half the width of a speed-up's interval at which measuring ends
# Ranges by what takes no time: on random weights accuracy says nothing, and speed does not depend on them
INT8 = {"observer": "minmax", "rescale": False, "correct_bias": False, "reconstruct": False, "weigh": False}
SETTINGS: dict[str, dict[str, Any]] = {"avit": {"gate_scale": 4.0}, "tome": {"r": 13}, "int8": INT8}


def measure(
    setup: Setup, geometry: str, kind: str, rows: Rows, sizes: tuple[int, ...], seconds: float
) -> Mapping[str, Any]:
    """Rows in a folder of their own; raises RuntimeError where one of them failed.

    Args:
        kind: of rows; "numbers" has one in TF32 too.
        sizes: of batches.
    """
    if setup.device == "cuda" and COMPILE in rows and "cuda" not in runtimes.get(COMPILE).devices():
        raise LeftOut("torch.compile needs Triton, which cannot be used here")
    count = 4 if setup.miniature else IMAGES
    material = make_noise(GEOMETRIES[geometry], count, setup.artifacts / geometry, torch.device(setup.device))
    parts = [(runtime, variant.parse(name, SETTINGS).methods) for runtime, names in rows.items() for name in names]
    candidates = [make_candidate(material, runtime, methods) for runtime, methods in parts]
    candidates[0] = dataclasses.replace(candidates[0], dense=True)
    if kind == "numbers":
        candidates.insert(1, allow_tf32(candidates[0]))
    options = Options(
        verb="gpu",
        base=candidates[0].variant,
        devices=(setup.device,),
        batch_sizes=sizes,
        threads=setup.threads,
        precision=PRECISION,
        seconds=0.05 if setup.miniature else min(10.0, seconds / len(sizes)),
        out=locate(setup.out, geometry, kind),
        command="python benchmarks/gpu.py",
    )
    made = evaluate([each for each in candidates if can_run(each, setup.device)], material.images, options, print)
    if failed := [f"{row.label} in {row.runtime}, batch {row.batch_size}: {row.failed}" for row in made if row.failed]:
        raise RuntimeError("; ".join(failed))
    return {"rows": len(made), "left_out": [each.name for each in candidates if not can_run(each, setup.device)]}


def locate(out: Path, geometry: str, kind: str) -> Path:
    """The run directory of some rows; two geometries may not share one, as rows do not tell them apart."""
    return out / "rows" / f"{geometry}-{kind}"


def make_candidate(material: Material, runtime: str, methods: tuple[Method, ...]) -> Candidate:
    """Its work is counted in float32: a CPU does that, and may be slow in other numbers."""
    whole = tuple(method for method in methods if method.stage < Stage.NUMERICS)
    cost = material.make_candidate("torch", whole).cost
    return dataclasses.replace(material.make_candidate(runtime, methods), cost=cost)


def can_run(candidate: Candidate, device: str) -> bool:
    """Whether a device multiplies in the numbers of a candidate, rather than simulating them."""
    return candidate.dtype in candidate.runtime.dtypes_on(device)


def allow_tf32(dense: Candidate) -> Candidate:
    """The same file, in a process whose float32 products may be rounded to TF32."""

    def start(path: Path, device: str, threads: int) -> Worker:
        return Worker.start(dense.runtime.name, path, device, threads, environment=TF32)

    return dataclasses.replace(dense, recipe="tf32", dense=False, start=start)
