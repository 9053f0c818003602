"""How the latencies were sampled, and what they depend on, as sections of the page."""

import statistics

from reports.columns import speedup_text
from reports.row import Row
from reports.significance import judge_speedup
from reports.text import clean, escape, figure, grid, ratio

FEWEST = 3  # batch sizes that make a break-even


def timing(rows: list[Row]) -> str:
    """How many samples stand behind each latency, their spread, and the cold start."""
    columns = [
        ("threads", lambda row: str(row.threads)),
        ("batch", lambda row: str(row.batch_size)),
        ("samples", lambda row: f"{len(row.latency_samples_s):,}"),
        ("rounds", lambda row: str(count_rounds(row) or "")),
        ("p10 ms", lambda row: figure(row.latency_p10_s, 1e-3)),
        ("median ms", lambda row: figure(row.latency_s, 1e-3)),
        ("p90 ms", lambda row: figure(row.latency_p90_s, 1e-3)),
        ("p99 ms", lambda row: figure(row.latency_p99_s, 1e-3)),
        ("IQR ms", lambda row: figure(row.latency_iqr_s if len(row.latency_samples_s) > 1 else None, 1e-3)),
        ("load ms", lambda row: figure(row.load_s, 1e-3)),
        ("first call ms", lambda row: figure(row.first_call_s, 1e-3)),
    ]
    timed = [row for row in rows if row.latency_samples_s]
    if not timed:
        return ""
    columns = [(name, show) for name, show in columns if any(show(row) for row in timed)]
    cells = [
        [*(escape(x) for x in (row.label, row.runtime, row.device)), *(show(row) for _, show in columns)]
        for row in timed
    ]
    header = ["variant", "runtime", "device", *(name for name, _ in columns)]
    table = grid(header, cells, [False] * 3 + [True] * len(columns))
    notes = ["*Rounds*: in each, every row had its turn once, in random order."] if "rounds" in header else []
    notes += ["*p99*: only from 1,000 samples on."] if "p99 ms" in header else []
    notes += ["*IQR*: width of the middle half.", "*Load*: from the file on disk to ready, in a fresh process, imports "
              "excluded."]  # fmt: skip
    return f"{table}\n\n{' '.join(notes)}"


def count_rounds(row: Row) -> int | None:
    """How many turns its samples come from; None where rows do not say."""
    return len(row.latency_samples_s) // row.calls_per_round if row.calls_per_round else None


def difficulty(rows: list[Row]) -> str:
    """Whether easy images really are faster, where the work depends on the image."""
    cells = []
    for row in rows:
        if row.easy_samples_s and row.hard_samples_s:
            easy, hard = statistics.median(row.easy_samples_s), statistics.median(row.hard_samples_s)
            words = [escape(x) for x in (row.dataset, row.label, row.runtime, row.device)]
            cells.append([*words, str(row.threads), figure(easy, 1e-3), figure(hard, 1e-3), ratio(hard / easy)])
    if not cells:
        return ""
    header = ["dataset", "variant", "runtime", "device", "threads", "easy ms", "hard ms", "hard / easy"]
    return (
        grid(header, cells, [False] * 4 + [True] * 4) + "\n\nMedian latency at batch 1 of the tenth of the test images "
        "with the fewest MACs (*easy*) and of the tenth with the most (*hard*)."
    )


def break_even(rows: list[Row]) -> str:
    """From which batch size on each variant wins, where three or more were measured."""
    tables: dict[tuple[object, ...], dict[tuple[str, str], dict[int, Row]]] = {}
    for row in rows:
        if row.completed and not row.dense and row.speedup is not None:
            where = (row.dataset, row.device, row.device_name, row.threads, row.seed)
            tables.setdefault(where, {}).setdefault((row.label, row.runtime), {})[row.batch_size] = row
    parts = []
    for (dataset, device, name, threads, seed), found in tables.items():
        lines = {who: by_batch for who, by_batch in found.items() if len(by_batch) >= FEWEST}
        if not lines:
            continue
        batches = sorted({batch for by_batch in lines.values() for batch in by_batch})
        cells = [
            [
                *map(escape, who),
                *(speedup_text(by_batch[batch]) if batch in by_batch else "" for batch in batches),
                wins_from(by_batch),
            ]
            for who, by_batch in lines.items()
        ]
        header = ["variant", "runtime", *(f"batch {batch}" for batch in batches), "wins"]
        table = grid(header, cells, [False] * 2 + [True] * len(batches) + [False])
        machine = f" ({name})" if name else ""
        title = clean(f"{dataset}, {device}{machine}, {threads} thread{'' if threads == 1 else 's'}, seed {seed}")
        parts.append(f"### {escape(title)}\n\n{table}")
    if not parts:
        return ""
    parts.append(
        "Speed-up against the dense model in the same runtime, by batch size. *Wins*: the smallest batch from which on "
        "the whole interval lies above 1, there and at all larger batches that were measured."
    )
    return "\n\n".join(parts)


def wins_from(by_batch: dict[int, Row]) -> str:
    """In words, from rows by batch size."""
    first = None
    for batch in sorted(by_batch, reverse=True):
        row = by_batch[batch]
        if judge_speedup((row.speedup, row.speedup_low, row.speedup_high)) != "faster":
            break
        first = batch
    if first is None:
        return f"never up to batch {max(by_batch)} here"
    return f"from batch {first} on" if first > min(by_batch) else "at every batch here"
