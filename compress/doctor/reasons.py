"""Why integers are not faster: each reason read from the processor, the optimized graph, or a measured run of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from compress.doctor.machine import FASTER_INT8, flags
from reports.text import figure

if TYPE_CHECKING:
    from compress.runtimes.ort_graph import Kernel

SMALL_MACS = 1_000_000  # tens of microseconds in float32; calling a kernel and moving its data takes some, too
STEP = 16  # integers that an instruction takes at a time; other sizes are padded
NAMED = 4  # examples in a sentence
ROWS = 5  # kinds of kernels in the table


def find_reasons(
    kernels: Sequence[Kernel], left: Sequence[str], before: Sequence[Kernel], batch: int, bf16: Sequence[str]
) -> list[str]:
    """Sentences that hold for this file on this machine, the processor's first.

    Args:
        kernels: of the quantized file, profiled.
        left: names of its quantized products that run in float.
        before: of its float counterpart, profiled; empty without one.
        batch: images in the profiled calls.
        bf16: runtimes here that compute bf16.
    """
    found = [
        *_processor(flags()),
        *_left_in_float(kernels, left),
        *_sizes(kernels, batch),
        *_bounds(kernels, before),
    ]
    if "amx_bf16" in flags() and bf16:
        found.append(f"this processor has AMX-bf16, and {', '.join(bf16)} can use it: compare with a bf16 variant")
    return found


def _processor(known: frozenset[str]) -> list[str]:
    if not known or known & FASTER_INT8:
        return []
    return ["this processor multiplies int8 no faster than float32: it has neither VNNI nor AMX nor dotprod"]


def _left_in_float(kernels: Sequence[Kernel], left: Sequence[str]) -> list[str]:
    found, total = [], sum(kernel.macs for kernel in kernels)
    if left:
        found.append(f"ONNX Runtime left {len(left)} quantized products in float: {_names(left)}")
    rest = sorted((k for k in kernels if k.macs and not k.integer and k.name not in left), key=lambda k: -k.macs)
    if rest and total:
        share = sum(kernel.macs for kernel in rest) / total
        found.append(f"{share:.1%} of the MACs are not quantized, most of them in {_names(k.name for k in rest)}")
    return found


def _sizes(kernels: Sequence[Kernel], batch: int) -> list[str]:
    integer, found = [kernel for kernel in kernels if kernel.integer], []
    odd = [kernel for kernel in integer if kernel.inner % STEP or kernel.columns % STEP]
    if odd:
        sizes = [f"{kernel.name} ({kernel.inner} x {kernel.columns})" for kernel in odd]
        found.append(
            f"{len(odd)} of {len(integer)} integer products are not a multiple of {STEP} wide: {_names(sizes)}"
        )
    small = [kernel for kernel in integer if kernel.macs < SMALL_MACS]
    if small:
        found.append(
            f"{len(small)} of {len(integer)} integer products have fewer than {SMALL_MACS / 1e6:.0f} million MACs at "
            f"batch {batch} (the smallest {min(kernel.macs for kernel in small):,}): so few that "
            "the overhead of a kernel call matters; compare with a larger batch"
        )
    return found


def _bounds(kernels: Sequence[Kernel], before: Sequence[Kernel]) -> list[str]:
    """Amdahl's law on measured shares of time."""
    found, total = [], sum(kernel.seconds for kernel in kernels)
    integer = [kernel for kernel in kernels if kernel.integer]
    if not integer or not total:
        return found
    shapes = {(kernel.inner, kernel.columns) for kernel in integer}
    same, all_ = sum(k.seconds for k in before if (k.inner, k.columns) in shapes), sum(k.seconds for k in before)
    worked, did = sum(kernel.macs for kernel in before), sum(kernel.macs for kernel in kernels)
    if before and worked != did:
        found.append(f"it drops other tokens than the float file: {did:,} MACs instead of {worked:,}")
    if 0 < same < all_:
        found.append(
            f"in ONNX Runtime, the same products take {same / all_:.0%} of the time of the float file: "
            f"faster products alone can give at most {all_ / (all_ - same):.2f}x"
        )
    share = sum(kernel.seconds for kernel in integer) / total
    if share < 1:
        found.append(
            f"integer kernels take {share:.0%} of the time now; making them infinitely fast would give at most "
            f"{1 / (1 - share):.2f}x more"
        )
    convert = sum(kernel.seconds for kernel in kernels if kernel.op in ("QuantizeLinear", "DequantizeLinear"))
    if convert:
        found.append(f"{convert / total:.0%} of the time is spent converting between float and integer")
    return found


def time_by_op(kernels: Sequence[Kernel]) -> list[tuple[str, str, str, str]]:
    """(kind, share of the time inside kernels, time, how many) of the kinds that take longest."""
    total = sum(kernel.seconds for kernel in kernels)
    kinds: dict[tuple[str, bool], list[float]] = {}
    for kernel in kernels:
        kinds.setdefault((kernel.op, kernel.integer), []).append(kernel.seconds)
    longest = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    rows = [
        (f"{op} (integer)" if integer else op, _share(sum(times), total), _ms(sum(times)), str(len(times)))
        for (op, integer), times in longest[:ROWS]
    ]
    rest = [time for _, times in longest[ROWS:] for time in times]
    return [*rows, ("all others", _share(sum(rest), total), _ms(sum(rest)), str(len(rest)))] if rest else rows


def _share(part: float, total: float) -> str:
    return f"{part / total:.0%}" if total else ""


def _ms(seconds: float) -> str:
    return f"{figure(seconds, 1e-3)} ms"


def _names(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
