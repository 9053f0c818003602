"""Numbers and foreign text as they appear in a table: rounded once, escaped once, empty where not measured."""

import html
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

UNSEEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
# An underscore inside a word is no markup; `avit_int8` should stay readable in the source.
MARKUP = re.compile(r"[\\`*\[\]~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def clean(value: object) -> str:
    """One line of text: line breaks, control characters and invisible marks become a space."""
    return UNSEEN.sub(" ", str(value)).strip()


def escape(value: object) -> str:
    """Foreign text that shows as itself in Markdown and HTML, inside a table cell as well."""
    text = html.escape(MARKUP.sub(r"\\\g<0>", clean(value)), quote=False)
    return text.replace("|", "&#124;")


def disarm(value: Any) -> Any:
    """A cell of a table file; text that a spreadsheet would take for a formula is marked as text by an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def bold(value: object) -> str:
    return f"**{escape(value)}**"


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def measured(value: float | None) -> float | None:
    """The value, or None where it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None


def figure(value: float | None, unit: float = 1) -> str:
    """`value / unit` with three significant digits, whole above a thousand; empty where not measured."""
    if measured(value) is None or value is None:
        return ""
    scaled = value / unit
    if scaled == 0 or abs(scaled) < 1e-4:
        return f"{scaled:.3g}"
    if abs(scaled) < 1000:
        scaled = float(f"{scaled:.3g}")  # before counting decimals, so that 9.996 is 10.0, not 10.00
    return f"{scaled:,.{max(0, 2 - math.floor(math.log10(abs(scaled))))}f}"


def plus_minus(value: float | None, spread: float | None, unit: float = 1) -> str:
    """`12.3 ± 0.4`: as many decimals as the value has, and more where the spread would read 0."""
    text = figure(value, unit)
    if not text or measured(spread) is None or spread is None:
        return text
    spread /= unit
    needed = -math.floor(math.log10(spread)) if spread > 0 else 0
    return f"{text} ± {spread:,.{max(len(text.partition('.')[2]), needed)}f}"


def percent(fraction: float | None, n: int | None = None) -> str:
    """A fraction in [0, 1] as percent: one decimal, two where `n` images resolve them; empty where not measured."""
    if measured(fraction) is None or fraction is None:
        return ""
    return f"{100 * fraction:.{2 if n is not None and n >= 5000 else 1}f}"


def points(change: float | None, n: int | None = None) -> str:
    """A change of a fraction in percentage points, with its sign and as many decimals as `percent` has."""
    text = percent(change, n)
    return "" if not text else f"{float(text):+.{len(text.partition('.')[2])}f}" if float(text) else text.strip("-")


def ratio(value: float | None) -> str:
    """Two decimals, one from ten on; empty where not measured."""
    if measured(value) is None or value is None:
        return ""
    return f"{value:.{2 if abs(value) < 9.995 else 1}f}"


def interval(middle: str, low: str, high: str) -> str:
    """`middle [low, high]`, or what there is of it."""
    return f"{middle} [{low}, {high}]" if middle and low and high else middle


def wrap_heading(text: str, most: int = 12) -> list[str]:
    """Lines of about so many characters; what an interval is headed by stands in a line of its own."""
    name, bracket, rest = text.partition(" [")
    lines = textwrap.wrap(name, most, break_long_words=False)
    return [*lines, f"[{rest}"] if bracket else lines


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A Markdown table, padded so that its source reads as a table too.

    Args:
        rows: cells that are already escaped.
        right: for each column, whether it is aligned to the right.
    """
    widths = [max(3, *(len(line[i]) for line in [header, *rows])) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(header), line(rule), *(line(cells) for cells in rows)])


def drop_infinite(value: Any) -> Any:
    """Tables and lists without floats that are no numbers, as damaged weights give them: JSON has none."""
    if isinstance(value, dict):
        return {name: drop_infinite(part) for name, part in value.items() if not _is_infinite(part)}
    if isinstance(value, list | tuple):
        return [drop_infinite(part) for part in value if not _is_infinite(part)]
    return value


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
