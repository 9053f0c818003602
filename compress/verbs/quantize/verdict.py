"""What was measured, as a table, and which lowering is kept, with the reason."""

from dataclasses import dataclass

import numpy as np
import torch
from rich.table import Table

from compress import files
from compress.measure import latency, statistics
from compress.quantization.sensitivity import sqnr_db
from compress.verbs.quantize.race import Entry

TIE = 0.02  # of the speed: what lies closer together is decided by the error
CHANCE = 0.05  # McNemar's p, below which a loss is no accident
LOSS = 0.01  # of top-1 that an integer file may lose without being asked for more, where it is no accident


@dataclass(frozen=True)
class Judged:
    """An entry beside the model it came from."""

    entry: Entry
    top1: float
    drop: float  # of top-1
    p: float  # that a difference as large is chance (McNemar)
    agreement: float  # share of the test images given the same class
    sqnr_db: float | None  # of the logits; None for the model itself
    speedup: tuple[float, float, float]
    file_bytes: int

    @property
    def name(self) -> str:
        return self.entry.lowering.name


def judge(entries: list[Entry], labels: np.ndarray) -> list[Judged]:
    """Figures of the entries that work; the first is what all are compared with."""
    before = next(entry for entry in entries if entry.failed is None)
    guess = before.logits.argmax(1)
    found = []
    for entry in entries:
        if entry.failed is not None:
            continue
        own = entry.logits.argmax(1)
        same = entry is before
        found.append(
            Judged(
                entry,
                top1=float((own == labels).mean()),
                drop=float((guess == labels).mean() - (own == labels).mean()),
                p=1.0 if same else statistics.mcnemar(own == labels, guess == labels),
                agreement=float((own == guess).mean()),
                sqnr_db=None if same else sqnr_db(*map(torch.from_numpy, (before.logits, entry.logits))),
                speedup=(1.0, 1.0, 1.0) if same else latency.speedup(before.timing, entry.timing) or (0.0, 0.0, 0.0),
                file_bytes=files.size(entry.path),
            )
        )
    return found


def choose(judged: list[Judged], max_drop: float | None) -> tuple[Judged | None, str]:
    """The integer file to keep, and a sentence that says why; None where none is good enough.

    Args:
        max_drop: of top-1, as a share.
    """
    whole = [each for each in judged if each.entry.lowering.whole]
    good = [each for each in whole if each.drop <= max_drop] if max_drop is not None else (
        [each for each in whole if each.drop <= LOSS or each.p >= CHANCE]
    )  # fmt: skip
    limit = max_drop if max_drop is not None else LOSS
    if not good:
        least = min(whole, key=lambda each: each.drop, default=None)
        lost = f"the least that one lost is {least.drop * 100:.2f} ({least.name})" if least else "none could be made"
        return None, f"no integer file loses at most {limit * 100:g} points on these images: {lost}"
    fastest = max(good, key=lambda each: each.speedup[0])
    near = [each for each in good if each.speedup[0] >= (1 - TIE) * fastest.speedup[0]]
    best = max(near, key=lambda each: each.sqnr_db or 0)
    reasons = [f"the fastest of {len(whole)} integer files" if best is fastest else (
        f"as fast as {fastest.name} within {TIE:.0%}, and nearer to the float model"
    )]  # fmt: skip
    rejected = [each for each in whole if each not in good]
    if rejected:
        reasons.append(f"{len(rejected)} lost more than {limit * 100:g} points and do not count")
    return best, f"kept: {best.name}: {'; '.join([*reasons, *_beside(best, judged)])}"


def _beside(best: Judged, judged: list[Judged]) -> list[str]:
    """How it compares with the best that needs no integers."""
    plain = [each for each in judged if not each.entry.lowering.whole]
    rival = max(plain, key=lambda each: each.speedup[0])
    ratio = (latency.speedup(rival.entry.timing, best.entry.timing) or (0.0,))[0]
    if ratio >= 1 + TIE:
        return [f"{ratio:.2f}x as fast as the fastest without integers ({rival.name})"]
    return [f"but no faster than {rival.name} here ({ratio:.2f}x): what it saves is size"]


def table(judged: list[Judged], failed: list[Entry], title: str, batch_size: int) -> Table:
    """One line for each file."""
    found = Table(title=title)
    for heading in ("", "kernels", "top-1", "change", "same class", "SQNR", "file", "latency", "speed-up"):
        found.add_column(heading, justify="right" if heading not in ("", "kernels") else "left", no_wrap=not heading)
    whole = judged[0].file_bytes
    for each in judged:
        inspection, first = each.entry.inspection, each is judged[0]
        assert inspection is not None
        share = inspection.integer_share
        found.add_row(
            each.name,
            inspection.executed + ("" if share is None else f" {share:.0%}"),
            f"{each.top1:.2%}",
            "" if first else f"{0.0 - each.drop * 100:+.2f}{'' if each.p >= CHANCE else ' *'}",
            "" if first else f"{each.agreement:.2%}",
            "" if each.sqnr_db is None else f"{each.sqnr_db:.1f} dB",
            f"{each.file_bytes / 1e6:.2f} MB" + ("" if first else f", {each.file_bytes / whole:.2f}"),
            f"{float(np.median(each.entry.timing.samples)) * 1e3:.2f} ms",
            "" if first else f"{each.speedup[0]:.2f}x [{each.speedup[1]:.2f}, {each.speedup[2]:.2f}]",
        )
    for entry in failed:
        found.add_row(entry.lowering.name, f"failed: {entry.failed}")
    found.caption = (
        f"int8 with the share of the MACs in integers; latency and speed-up at batch {batch_size}, against the first "
        f"line; change in points, * where it is no accident (McNemar, p < {CHANCE}); + bf16: the rest in bf16"
    )
    return found
