"""What was different about two runs, apart from their figures: machine, software, load, day, seed, settings."""

from collections.abc import Iterator

from reports.row import Row
from reports.setup import flat
from reports.text import clean

BUSY = 0.5  # processors: a difference of load averages that is worth a warning


def differences(old: list[Row], new: list[Row]) -> list[str]:
    """In words, as plain text; empty where both are known to be the same."""
    found = [f"{name} was {was}, is {now}" for name, was, now in _changed(_facts(old), _facts(new))]
    loads = [
        [load for row in rows if isinstance(load := row.environment.get("load_average_1min"), int | float)]
        for rows in (old, new)
    ]
    if all(loads):
        was, now = (sum(load) / len(load) for load in loads)
        if abs(was - now) > BUSY:
            found.append(f"mean load of the machine was {was:.1f}, is {now:.1f}")
    return found


def _facts(rows: list[Row]) -> dict[str, dict[str, None]]:
    """All values of each property over the rows of a run."""
    facts: dict[str, dict[str, None]] = {}
    for row in rows:
        here = {
            "device": row.device_name,
            "batch shape": row.batch_shape,
            "seed": str(row.seed),
            "day": str(row.environment.get("time_utc", ""))[:10],
        }
        here |= flat({n: v for n, v in row.environment.items() if n not in ("time_utc", "load_average_1min", "time")})
        here |= flat(row.config, "setting ")
        for name, value in here.items():
            if value:
                facts.setdefault(clean(name), {})[clean(value)] = None
    return facts


def _changed(old: dict[str, dict[str, None]], new: dict[str, dict[str, None]]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*old, *new]):
        was, now = old.get(name, {}), new.get(name, {})
        if set(was) != set(now):
            yield name, ", ".join(was) or "not known", ", ".join(now) or "not known"
