"""Does `compress quantize` keep the file that measuring everything to the end would keep, and how much sooner?

    python benchmarks/elimination.py vit_small.pth --data folder:photos --trials 10 --test-images 500

Runs the command once with `--exhaustive`, then as often as is asked without. A trial is right where it keeps the same
recipe, or one whose speed in the exhaustive run is within 2 % of the best. Seconds are those of the whole command.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compress.runtimes.client import make_environment
from reports import Row, parse_rows

CLOSE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--trials", type=int, default=10)
    options, rest = parser.parse_known_args()  # the rest is for compress quantize
    with tempfile.TemporaryDirectory() as folder:
        command = ["quantize", str(options.checkpoint), "--data", options.data, *rest]
        all_, seconds = run([*command, "--exhaustive"], Path(folder) / "exhaustive")
        speeds = {name(row): row.overall or 0.0 for row in all_ if row.failed is None}
        wanted = next((row for row in all_ if row.chosen), None)
        if wanted is None:
            sys.exit("no file keeps the accuracy, so there is nothing to compare")
        table = Table(title=f"exhaustive: {name(wanted)}, {wanted.overall:.2f}x PyTorch fp32, {seconds:.0f} s")
        for heading in ("trial", "kept", "speed there", "right", "left early", "seconds"):
            table.add_column(heading, justify="left" if heading == "kept" else "right")
        right = 0
        for number in range(1, options.trials + 1):
            rows, seconds = run(command, Path(folder) / f"trial{number}")
            kept = next((row for row in rows if row.chosen), None)
            share = speeds.get(name(kept), 0.0) / speeds[name(wanted)] if kept else 0.0
            right += share >= 1 - CLOSE
            early = sum(row.eliminated is not None for row in rows)
            words = name(kept) if kept else "none"
            table.add_row(str(number), words, f"{share:.3f}", str(share >= 1 - CLOSE), f"{early}", f"{seconds:.0f}")
            print(f"trial {number}: {words}, {share:.3f} of the best, {early} left early, {seconds:.0f} s", flush=True)
        table.caption = f"{right} of {options.trials} keep the same file or one within {CLOSE:.0%}"
        Console(width=120).print(table)


def run(command: list[str], out: Path) -> tuple[list[Row], float]:
    """The rows of one command, and the seconds it took."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "compress", *command, "--out", str(out)],
        env=make_environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        sys.exit(done.stderr)
    rows = out / "rows.jsonl"
    return parse_rows(rows.read_text(), str(rows)), time.perf_counter() - started


def name(row: Row) -> str:
    return f"{row.runtime}: {row.recipe or row.variant}"


if __name__ == "__main__":
    main()
