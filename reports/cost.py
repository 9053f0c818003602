"""What the models compute, as sections of the page."""

import math
import re

from reports.row import Row
from reports.text import escape, figure, grid, percent


def promised(rows: list[Row]) -> str:
    """For variants whose work depends on the image, or is less than the arithmetic promises or more."""
    lines: dict[tuple[str, ...], dict[int, None]] = {}  # cells -> batch sizes that gave them
    for row in rows:
        spread = row.macs_quantiles if row.macs_quantiles and len(row.macs_quantiles) == 5 else [None] * 5
        tokens = row.tokens_per_block or []
        missed = not math.isclose(row.macs_promised or 0, row.macs_per_image or 0, rel_tol=1e-4)
        if missed or len(set(spread)) > 1 or len(set(tokens)) > 1:
            words = [escape(x) for x in (row.dataset, row.label, row.runtime)]
            macs = [figure(x, 1e6) for x in [row.macs_promised, row.macs_per_image, *spread]]
            lines.setdefault((*words, *macs, " ".join(f"{n:.1f}" for n in tokens)), {})[row.batch_size] = None
    if not lines:
        return ""
    header = ["dataset", "variant", "runtime", "batch", "promised", "executed", "min", "p10", "median", "p90", "max"]
    cells = [[*line[:3], ", ".join(map(str, sorted(sizes))), *line[3:]] for line, sizes in lines.items()]
    table = grid([*header, "tokens in each block"], cells, [False] * 3 + [True] * 8 + [False])
    return (
        f"{table}\n\nMMACs for one image. *Promised*: if every dropped token cost nothing. *Executed*: with the "
        "padding of a batch. *min* to *max*: over the test images, without padding. Tokens are those that ran, "
        "mean over the test images."
    )


def counters(rows: list[Row]) -> str:
    """Each model of fixed shapes as several counters see it, against closed-form arithmetic."""
    names = list(dict.fromkeys(name for row in rows for name in row.macs_counters or {} if not is_closed(name)))
    lines = {}
    for row in rows:
        counted = row.macs_counters or {}
        closed = next((macs for name, macs in counted.items() if is_closed(name)), None)
        seen = [f"{difference(counted[name], closed)}" if name in counted else "" for name in names]
        if counted:
            reference = "" if closed is None else f"{closed:,.0f}"
            lines[escape(row.dataset), escape(row.label), reference, *seen] = None
    if not lines:
        return ""
    header = ["dataset", "variant", "closed form, MACs", *(f"{escape(name.replace('_', ' '))}, %" for name in names)]
    table = grid(header, list(lines), [False, False] + [True] * (len(header) - 2))
    return (
        f"{table}\n\nMACs of one image by closed-form arithmetic, and by how much each other counter differs from it, "
        "in percent; a bare 0 is equal to the last digit."
    )


def is_closed(counter: str) -> bool:
    return re.match("closed", counter, re.IGNORECASE) is not None


def difference(macs: float, closed: float | None) -> str:
    if not closed:
        return f"{macs:,.0f} MACs"
    return "0" if macs == closed else f"{100 * (macs / closed - 1):+.2g}"


def integers(rows: list[Row]) -> str:
    """How much of the arithmetic really ran in integer kernels, for each variant and runtime."""
    lines = {}
    for row in rows:
        if row.integer_share is not None:
            words = [escape(x) for x in (row.dataset, row.label, row.runtime, row.device, row.executed or "")]
            lines[*words, percent(row.integer_share)] = None
    if not lines:
        return ""
    header = ["dataset", "variant", "runtime", "device", "executed", "MACs in integers %"]
    table = grid(header, list(lines), [False] * 5 + [True])
    return f"{table}\n\nRead from the graph that the runtime made of the file, after its own optimisation."
