"""`report.html`: table, plots and images on one page that needs no network, made from rows alone."""

import base64
import hashlib
import html
import json
import math
import re
from importlib import resources
from string import Template
from typing import Any

from reports.findings import findings
from reports.markdown import SECTIONS
from reports.page_data import plot_data
from reports.page_figures import bokeh_js, figures
from reports.row import Row
from reports.setup import commands
from reports.table import COLUMNS, Column, footnotes, groups
from reports.text import bullets, clean

PLACE = ("dataset", "device", "device_name", "threads")  # headless columns that tell rows apart on this page
SCRIPTS = ("page.js", "table.js", "plots.js", "curves.js", "gallery.js")
HEADINGS = {
    "pareto": "Accuracy against cost",
    "gallery": "Where the work went",
    "confusion": "Which classes are confused",
    "training": "Training",
}
ELSEWHERE = ("Findings", "Comparison", "How to read this")  # sections of `report.md`
# Fenced code, or lines up to an empty one.
BLOCK = re.compile(r"(?P<fence>`{3,})\w*\n(?P<code>.*?)\n(?P=fence)(?:\n+|\Z)|(?P<text>.+?)(?:\n\n+|\Z)", re.DOTALL)
INLINE = re.compile(r"\\(?P<escaped>.)|(?P<mark>\*\*|\*|`)(?P<inside>(?:\\.|[^\\])+?)(?P=mark)")
TAGS = {"**": "strong", "*": "em", "`": "code"}


def report_html(rows: list[Row]) -> bytes:
    """The whole page, in UTF-8: the same bytes from the same rows and the same Bokeh."""
    data = plot_data(rows)
    plots = figures(data)
    bodies = [asset(name) for name in SCRIPTS]
    scripts = [bokeh_js()] * bool(plots) + ["(() => {\n" + "\n".join(bodies) + "})();\n"]
    datasets = ", ".join(dict.fromkeys(clean(row.dataset) for row in rows))
    page = Template(asset("page.html")).substitute(
        policy=policy(scripts),
        title=html.escape("Vision Transformers, compressed and measured" + f": {datasets}" * bool(rows)),
        style=asset("page.css"),
        facts=facts(rows),
        commands=to_html(commands(rows)),
        findings=to_html(findings(rows)),
        table=table(rows) if rows else "",
        plots="".join(plot_section(name) for name in HEADINGS if name in data),
        details=details(rows),
        data=script_json(data | {"figures": plots}),
        scripts="".join(f"<script>{script}</script>\n" for script in scripts),
    )
    return page.encode()


def asset(name: str) -> str:
    return (resources.files("reports") / "page_assets" / name).read_text(encoding="utf-8")


def policy(scripts: list[str]) -> str:
    """A Content-Security-Policy: these very scripts, styles and inline images, and nothing from anywhere else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_json(value: Any) -> str:
    """JSON that cannot end the `<script>` it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def facts(rows: list[Row]) -> str:
    """What was measured, where and when, as terms and their descriptions."""
    images = {f"{row.n_images:,} test images" for row in rows if row.n_images is not None}
    machines = dict.fromkeys(
        f"{clean(row.device_name)} ({clean(row.device)}, {row.threads} thread{'s' * (row.threads != 1)})"
        for row in rows
        if row.device_name
    )
    times = sorted(clean(row.environment["time_utc"]) for row in rows if row.environment.get("time_utc"))
    span = [time[:16].replace("T", " ") for time in dict.fromkeys([*times[:1], *times[-1:]])]
    stated = {
        "Data": ", ".join([*dict.fromkeys(clean(row.dataset) for row in rows), *sorted(images)]),
        "Machine": "; ".join(machines),
        "Measured": " to ".join(dict.fromkeys(span)) + " UTC" * bool(span),
        "Rows": f"{len(rows)}, of {len({row.variant for row in rows})} variants" if rows else "",
    }
    return "".join(f"<dt>{term}</dt><dd>{html.escape(text)}</dd>" for term, text in stated.items() if text)


def table(rows: list[Row]) -> str:
    """All rows in one table; each cell keeps its raw value, by which it is sorted."""
    ordered = [row for group in groups(rows) for row in group]
    columns = table_columns(ordered)
    heads = (
        f'<th scope="col" class="{side(c)}" data-key="{c.key}" title="{html.escape(plain(c.meaning))}">'
        f'<button type="button">{html.escape(heading(c))}</button></th>'
        for c in columns
    )
    lines = "".join(table_line(row, columns) for row in ordered)
    return f"<table><thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{lines}</tbody></table>"


def table_columns(rows: list[Row]) -> list[Column]:
    """Those in which something stands: first what tells rows apart, then by how much they matter."""
    first = ("variant", "runtime", *PLACE, "batch_size")

    def wanted(c: Column) -> bool:
        if c.key in PLACE:
            return c.key == "device" or len({c.value(row) for row in rows}) > 1
        return c.header is not None and c.needed(rows) and any(c.show(row) for row in rows)

    def order(c: Column) -> tuple[float, ...]:
        return (first.index(c.key),) if c.key in first else (len(first), math.inf if c.rank is None else c.rank)

    return sorted(filter(wanted, COLUMNS), key=order)


def side(c: Column) -> str:
    """Whether it is aligned, and sorted, as words or as numbers."""
    return "left" if c.key in PLACE and c.key != "threads" else c.align


def heading(c: Column) -> str:
    return c.header or c.key.replace("_", " ")


def table_line(row: Row, columns: list[Column]) -> str:
    cells = []
    for c in columns:
        text = c.show(row) if c.header is not None else clean(c.value(row))
        raw = clean(c.value(row)) if text else ""
        inside = html.escape(text)
        tag = "td"
        if c.key == "variant":
            tag, inside = 'th scope="row"', f"<span>{inside}</span>{notes(row)}"
        cells.append(f'<{tag} class="{side(c)}" data-value="{html.escape(raw)}">{inside}</{tag[:2]}>')
    keys = {"variant": row.variant, "runtime": row.runtime, "device": row.device, "batch": row.batch_size}
    marks = " ".join(f'data-{name}="{html.escape(clean(value))}"' for name, value in keys.items())
    return f"<tr {marks}{' class=failed' * (row.failed is not None)}>{''.join(cells)}</tr>\n"


def notes(row: Row) -> str:
    """A failure in full, warnings to be unfolded."""
    found = [html.escape(note) for note in footnotes([row])[1]]
    failure = "".join(f'<p class="failure">{note}</p>' for note in found[: row.failed is not None])
    warnings = "".join(f"<li>{note}</li>" for note in found[row.failed is not None :])
    count = warnings.count("<li>")
    unfolding = f"<details><summary>{count} note{'s' * (count != 1)}</summary><ul>{warnings}</ul></details>"
    return failure + unfolding * bool(warnings)


def plot_section(name: str) -> str:
    """A heading and the part of `page_assets` that belongs to it; its script fills it."""
    return f'<section id="{name}-section"><h2>{HEADINGS[name]}</h2>\n{asset(name + ".html")}</section>\n'


def details(rows: list[Row]) -> str:
    """What the columns mean, and the sections of `report.md` that are not on the page in another form; all folded."""
    meanings = [f"**{heading(c)}**: {c.meaning}." for c in table_columns(rows) if c.meaning]
    sections = {"What the columns mean": bullets([*meanings, "An empty cell was not measured."]) if rows else ""}
    sections |= {title: body(rows) for title, body, _ in SECTIONS if title not in ELSEWHERE}
    return "".join(
        f"<details><summary>{title}</summary>\n{to_html(text)}</details>\n" for title, text in sections.items() if text
    )


def plain(text: str) -> str:
    """Markdown of our own without its marks."""
    return re.sub("[`*]", "", text)


def to_html(text: str) -> str:
    """HTML of the Markdown that `reports` writes: headings, paragraphs, lists, tables, code, and no more than that.

    Args:
        text: foreign parts are escaped by `reports.text.escape`, but for those inside fences.
    """
    parts = []
    for block in BLOCK.finditer(text):
        lines = (block["text"] or "").strip("\n").split("\n")
        if block["fence"]:
            parts.append(f"<pre><code>{html.escape(block['code'])}</code></pre>")
        elif lines[0].startswith("#"):
            level, title = lines[0].split(" ", 1)
            parts.append(f"<h{len(level)}>{inline(title)}</h{len(level)}>")
        elif lines[0].startswith("- "):
            parts.append(list_html(lines))
        elif lines[0].startswith("| "):
            parts.append(table_html(lines))
        else:
            parts.append(f"<p>{inline(' '.join(lines))}</p>")
    return "\n".join(parts)


def list_html(lines: list[str]) -> str:
    """Of a list of one or two levels, a line each."""
    items: list[list[str]] = []
    for line in lines:
        if line.startswith("- "):
            items.append([inline(line[2:])])
        else:
            items[-1].append(f"<li>{inline(line.strip()[2:])}</li>")
    whole = (head + f"\n<ul>{''.join(below)}</ul>" * bool(below) for head, *below in items)
    return "<ul>" + "".join(f"<li>{item}</li>\n" for item in whole) + "</ul>"


def table_html(lines: list[str]) -> str:
    """Of one written by `reports.text.grid`."""
    cells = [[inline(cell.strip()) for cell in line[2:-2].split(" | ")] for line in lines]
    sides = ["right" if rule.endswith(":") else "left" for rule in cells[1]]

    def row(tag: str, line: list[str]) -> str:
        return "".join(f'<{tag} class="{s}">{cell}</{tag}>' for s, cell in zip(sides, line, strict=True))

    body = "".join(f"<tr>{row('td', line)}</tr>\n" for line in cells[2:])
    head = f"<thead><tr>{row('th', cells[0])}</tr></thead>"
    return f'<div class="scroll"><table>{head}\n<tbody>{body}</tbody></table></div>'


def inline(text: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        if match["escaped"]:
            return match["escaped"]
        tag = TAGS[match["mark"]]
        return f"<{tag}>{inline(match['inside'])}</{tag}>"

    return INLINE.sub(replaced, text)
