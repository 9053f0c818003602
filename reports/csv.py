"""Rows as CSV, for a spreadsheet or another program."""

import math
import re
from typing import TYPE_CHECKING

from reports.columns import COLUMNS
from reports.results import relate_rows
from reports.row import Row
from reports.text import clean, disarm

if TYPE_CHECKING:
    import pandas as pd


def csv_text(rows: list[Row]) -> str:
    """One line a row under one header line; see `make_frame`. No cell is a formula."""
    import pandas as pd

    frame = make_frame(rows)
    safe = [[disarm(cell) for cell in line] for line in frame.itertuples(index=False, name=None)]
    return pd.DataFrame(safe, columns=frame.columns, dtype=object).to_csv(index=False, lineterminator="\n")


def make_frame(rows: list[Row]) -> "pd.DataFrame":
    """A line for each row: unrounded values in base units, None where not measured.

    Of the environment only its plain strings appear, as `environment_<name>`.
    """
    import pandas as pd

    names: dict[str, str] = {}
    for row in rows:
        for name, value in row.environment.items():
            if isinstance(value, str):
                names.setdefault("environment_" + re.sub(r"\W+", "_", name), name)

    def words(value: object) -> object:
        return clean(value) if isinstance(value, str) else None

    records = [
        [_make_plain(c.value(result)) for c in COLUMNS] + [words(result.row.environment.get(n)) for n in names.values()]
        for result in relate_rows(rows)
    ]
    return pd.DataFrame(records, columns=pd.Index([c.key for c in COLUMNS] + list(names)), dtype=object)


def list_figures(rows: list[Row]) -> list[dict[str, object]]:
    """The same columns as values that JSON has, without those of the environment."""
    return [{c.key: _make_plain(c.value(result)) for c in COLUMNS} for result in relate_rows(rows)]


def _make_plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return clean(value) if isinstance(value, str) else value
