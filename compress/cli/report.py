"""`compress report`."""

from pathlib import Path
from typing import Annotated

import typer

from compress.cli import terminal
from compress.cli.json_output import with_json
from compress.outcome import Outcome


@with_json
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories (with rows.jsonl); the first is the reference.")],
    out: Annotated[Path | None, typer.Option(help="Output directory of a comparison; default: the last run.")] = None,
    fail_if_slower: Annotated[
        str | None,
        typer.Option(help="Exit with code 1 if the last run is slower than the first by more than this, such as 5%."),
    ] = None,
) -> Outcome:
    """Regenerate the report of a run, or compare several runs."""
    import reports
    from baselines.errors import InputError
    from compress.tables import show_rows
    from compress.verbs.bench import FILES, read_runs, write_comparison, write_report

    console = terminal.make_console()
    limit = terminal.share(fail_if_slower, "--fail-if-slower") if fail_if_slower else None
    if len(runs) == 1:
        if limit is not None:
            raise InputError("--fail-if-slower compares runs; give the run to compare with first, then this one")
        rows = write_report(runs[0])
        show_rows(console, rows)
        console.print(f"wrote {runs[0] / 'report.md'}, report.html, tables, plots and pictures")
        return Outcome(rows=rows, written=[runs[0] / name for name in FILES])
    found = read_runs(runs)
    console.print(reports.rich_comparison(found))
    written = write_comparison(found, out or runs[-1])
    console.print(f"wrote {written}")
    faults = reports.slower(found, limit) if limit is not None else []
    for fault in faults:
        console.print(f"too slow: {fault}")
    compared = {folder: reports.list_figures(rows) for folder, rows in found.items()}
    return Outcome(written=[written], facts={"too_slow": faults, "runs": compared}, exit_code=int(bool(faults)))
