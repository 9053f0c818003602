"""OUT/report.md: every step and what came of it, then the rows of the harness; a report of its own in each run."""

from pathlib import Path
from typing import Any

from steps import FAIL, LEFT_OUT, PASS, Journal

import reports
from compress import files
from reports.markdown import report_md
from reports.text import escape
from reports.timing import break_even


def shorten(value: Any) -> str:
    """Numbers with four digits, also inside of lists and tables."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shorten(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(map(shorten, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(out: Path) -> None:
    """What is written says what is known so far; a run that cannot be read costs its own section."""
    records = Journal(out).read().values()
    counts = {status: sum(each.status == status for each in records) for status in (PASS, FAIL, LEFT_OUT)}
    lines = ["# What this GPU shows", "", ", ".join(f"{count} {status}" for status, count in counts.items())]
    lines += ["", "| step | result | s | |", "|---|---|---:|---|"]
    for each in records:
        said = each.error or ", ".join(f"{name} {shorten(value)}" for name, value in each.facts.items())
        lines.append(f"| {escape(each.step)} | {each.status} | {each.seconds:.1f} | {escape(said)} |")
    for path in sorted(out.glob("rows/*/rows.jsonl")):
        lines += ["", f"## {path.parent.name}", ""]
        try:
            rows = reports.latest(reports.read_rows(path))
            files.write(path.with_name("report.md"), report_md(rows))
            lines += [reports.markdown_table(rows), "", break_even(rows)]
        except Exception as error:  # whatever it is: the steps above are worth more
            lines.append(f"cannot be shown: {error}")
    files.write(out / "report.md", "\n".join(lines) + "\n")
