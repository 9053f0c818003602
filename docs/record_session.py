"""Records a terminal session as SVG: the command runs for real, and what it prints is drawn as it came.

python docs/record_session.py CHECKPOINT       # with images in the folder photos beside it; writes docs/session.svg
"""

import argparse
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
# rich's own frame asks another host for its font
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def run(command: list[str], width: int = WIDTH) -> str:
    """What it prints on a terminal of `width` columns, without what was overwritten."""
    environment = os.environ | {"COLUMNS": str(width), "LINES": "50", "TERM": "xterm-256color"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # Linux says so when the other end is closed
        pass
    text = b"".join(parts).decode().replace("\r\n", "\n")
    if process.wait():
        raise SystemExit(f"{' '.join(command)} failed: {text}")
    return re.sub(r"\x1b\[[0-9;?]*[A-LN-Za-z]", "", re.sub(r"[^\n]*\r", "", text)).rstrip()  # colours stay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    path = parser.parse_args().checkpoint.resolve()
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    os.chdir(path.parent)
    words = ["prune", path.name, "--data", "photos", "--method", "tome", "--r", "0,4,8,12", "--batch-size", "32"]
    console.print(Text(f"$ compress {' '.join(words)}", style="bold green"))
    console.print(Text.from_ansi(run([sys.executable, "-m", "compress", *words])), soft_wrap=True)
    svg = console.export_svg(title="compress", code_format=FORMAT, unique_id="session")
    target = Path(__file__).with_name("session.svg")
    target.write_text(svg, encoding="utf-8")
    print(f"{target}: {len(svg) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
