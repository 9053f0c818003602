"""Rows beside the dense models of their table: what changed against them, and which row is the best."""

from dataclasses import dataclass
from functools import cached_property

from reports.row import Row
from reports.significance import Accuracy, Speed, compare_proportions, judge_accuracy, judge_speedup
from reports.text import clean, measured


@dataclass(frozen=True)
class Result:
    """A row, and what it is compared with."""

    row: Row
    dense: Row | None = None  # in the same runtime, or else the reference
    reference: Row | None = None  # the dense model in torch

    @property
    def top1_change(self) -> float | None:
        """Against the dense model, in [-1, 1]; from the two rows where they saw the same number of images."""
        row, dense = self.row, self.dense
        if row.top1_change is not None or dense is None or dense is row or dense.n_images != row.n_images:
            return row.top1_change
        top1, other = measured(row.top1), measured(dense.top1)
        return None if top1 is None or other is None else top1 - other

    @property
    def p(self) -> float | None:
        """Of a change of top-1 as large where there is none."""
        row, dense = self.row, self.dense
        if row.mcnemar_p is not None or dense is None or dense is row or dense.n_images != row.n_images:
            return row.mcnemar_p
        return compare_proportions(row.top1, row.n_images, dense.top1, dense.n_images)

    @property
    def accuracy(self) -> Accuracy:
        return judge_accuracy(self.top1_change, self.p)

    @property
    def speed(self) -> Speed:
        """Against the dense model in the same runtime. Nothing is said of what was eliminated."""
        row = self.row
        return judge_speedup((row.speedup, row.speedup_low, row.speedup_high)) if row.completed else ""

    @property
    def file_ratio(self) -> float | None:
        """Size of its file as a share of the dense model's in fp32."""
        file, whole = self.row.file_bytes, self.reference.file_bytes if self.reference else None
        return file / whole if file and whole else None


@dataclass(frozen=True)
class Group:
    """Rows that may share a table: same dataset, device, threads and batch size."""

    rows: list[Row]

    @property
    def title(self) -> str:
        return describe_conditions(self.rows[0])

    @cached_property
    def results(self) -> list[Result]:
        """Those with figures; what was eliminated comes last."""
        shown = [_relate(row, self.rows) for row in self.rows if row.failed is None]
        return sorted(shown, key=lambda result: not result.row.completed)

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if row.failed is not None]

    @property
    def bases(self) -> list[str]:
        """Names of the dense models that the rows come from."""
        return list(dict.fromkeys(row.base for row in self.rows))

    @cached_property
    def winners(self) -> list[Result]:
        """Of each dense model the fastest row whose loss of top-1 is not statistically significant."""
        parts = [[result for result in self.results if result.row.base == base] for base in self.bases]
        return [winner for part in parts if (winner := choose_winner(part)) is not None]


def choose_winner(results: list[Result]) -> Result | None:
    """The fastest that was measured to the end and is not significantly less accurate than the dense model.

    Where no accuracy is known at all, the fastest.
    """
    timed = [result for result in results if result.row.completed and measured(result.row.latency_s)]
    scored = any(measured(result.row.top1) is not None for result in timed)
    kept = [r for r in timed if r.accuracy != "worse" and (r.accuracy or r.row.dense or not scored)]
    return min(kept, key=lambda result: result.row.latency_s or 0, default=None)


def group_rows(rows: list[Row]) -> list[Group]:
    """In order of first appearance; what failed before it reached a device joins the first table it fits."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in sorted(rows, key=_is_nowhere):
        key = (row.dataset, row.device, row.device_name, row.threads, row.batch_size)
        if _is_nowhere(row):
            key = next((other for other in groups if other[0] == row.dataset and other[-1] == row.batch_size), key)
        groups.setdefault(key, []).append(row)
    return list(map(Group, groups.values()))


def relate_rows(rows: list[Row]) -> list[Result]:
    """Every row, in the same order, with what it is compared with."""
    results = {id(row): _relate(row, group.rows) for group in group_rows(rows) for row in group.rows}
    return [results[id(row)] for row in rows]


def describe_conditions(row: Row, dataset: bool = True, device_name: bool = True) -> str:
    """What the rows of a group have in common, as plain text."""
    parts = [row.dataset] if dataset else []
    parts += [
        f"batch {row.batch_size}",
        row.device + (f" ({row.device_name})" if device_name and row.device_name else ""),
    ]
    return clean(", ".join([*parts, f"{row.threads} thread{'' if row.threads == 1 else 's'}"]))


def _is_nowhere(row: Row) -> bool:
    """Whether it failed before it reached any device."""
    return row.failed is not None and not row.device_name


def _relate(row: Row, rows: list[Row]) -> Result:
    dense = [other for other in rows if other.completed and other.dense and other.base == row.base]
    dense.sort(key=lambda other: other.seed != row.seed)  # of the same seed if there is one
    reference = next((other for other in dense if other.runtime == "torch"), None)
    same = next((other for other in dense if other.runtime == row.runtime), None)
    return Result(row, row if row.dense else same or reference or next(iter(dense), None), reference)
