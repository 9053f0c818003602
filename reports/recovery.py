"""What fine-tuning brings back: accuracy of a compressed model before its first step, and after each epoch."""

import math
from dataclasses import dataclass

from reports.row import BASELINE, Row
from reports.significance import Z
from reports.text import escape, figure, grid, measured, percent

SHOWN = (0, 1, 5)  # epochs with a column of their own


@dataclass(frozen=True)
class Recovery:
    """One model that was fine-tuned."""

    row: Row
    dense: Row | None  # the baseline on the same test images
    top1: dict[int, float]  # by epochs of fine-tuning; 0: before the first step
    macs: dict[int, float]  # of one image, mean over the test images, by epochs too

    @property
    def share(self) -> float | None:
        """MACs at the end, of those of the baseline."""
        whole = measured(self.dense.macs_per_image) if self.dense else None
        return self.macs[max(self.macs)] / whole if self.macs and whole else None


def recoveries(rows: list[Row]) -> list[Recovery]:
    """Of those rows that carry their fine-tuning, once for each variant, dataset and seed."""
    found: dict[tuple[str, str, int], Recovery] = {}
    for row in rows:
        top1 = by_epoch(row, "top1")
        if 0 in top1 and len(top1) > 1:
            dense = [
                other
                for other in rows
                if (other.variant, other.dataset, other.seed) == (row.base, row.dataset, row.seed)
                and measured(other.top1) is not None
            ]
            each = Recovery(row, dense[0] if dense else None, top1, by_epoch(row, "macs"))
            found.setdefault((row.label, row.dataset, row.seed), each)
    return list(found.values())


def by_epoch(row: Row, name: str) -> dict[int, float]:
    """One figure of the records of a training, by epoch; what was so before the first step counts as epoch 0."""
    found: dict[int, float] = {}
    for record in row.training or []:
        epoch = measured(record.get("epoch"))
        for key, when in ((f"before_{name}", 0), (name, epoch)):
            value = measured(record.get(key))
            if value is not None and when is not None:
                found[int(when)] = value
    return found


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share of `n` images."""
    centre, spread = share + Z * Z / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (centre - spread) / (1 + Z * Z / n), (centre + spread) / (1 + Z * Z / n)


def recovery(rows: list[Row]) -> str:
    """A line for each model that was fine-tuned."""
    found = recoveries(rows)
    if not found:
        return ""
    seeds = len({each.row.seed for each in found}) > 1
    lines = []
    for each in found:
        name = escape(each.row.label) + f", seed {each.row.seed}" * seeds
        shares = [each.dense.top1 if each.dense else None, *(each.top1.get(epochs) for epochs in SHOWN)]
        shares.append(each.top1[max(each.top1)])
        shown = [percent(share, each.row.n_images) for share in shares]
        macs = "" if each.share is None else figure(100 * each.share)
        lines.append([escape(each.row.dataset), name, macs, *shown, str(max(each.top1))])
    header = ["dataset", "variant", "MACs %", "dense %", *(f"after {epochs} %" for epochs in SHOWN), "last %", "epochs"]
    return (
        f"{grid(header, lines, [False] * 2 + [True] * (len(header) - 2))}\n\n"
        "Top-1 on the test images after so many epochs of fine-tuning; 0 is the compressed model before its first "
        f"step. *dense* is the top-1 of `{BASELINE}`, *MACs* are those of an image as a share of `{BASELINE}`'s. The "
        "averaged weights are scored, calibrated as if training ended there. Nothing is chosen by these figures: where "
        "images are held out, those decide which epoch is kept."
    )
