"""`report.html`: table, plots and images on one page that needs no network, made from rows alone."""

import base64
import hashlib
import html
import json
import re
from importlib import resources
from string import Template
from typing import Any

from reports.findings import findings
from reports.markdown import SECTIONS
from reports.page_data import plot_data
from reports.page_figures import bokeh_js, figures
from reports.page_table import below_table, heading, table, table_columns
from reports.results import group_rows
from reports.row import Row
from reports.setup import commands
from reports.text import bullets, clean
from reports.verdict import verdict_md

SCRIPTS = ("page.js", "table.js", "plots.js", "curves.js", "gallery.js")
HEADINGS = {
    "pareto": "Accuracy against cost",
    "gallery": "Patches computed in each block",
    "confusion": "Confusion between classes",
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
        title=html.escape("Vision Transformer compression report" + f": {datasets}" * bool(rows)),
        style=asset("page.css"),
        facts=facts(rows),
        commands=to_html(commands(rows)),
        verdict=to_html(verdict_md(rows)) if rows else "",
        findings=to_html(findings(rows)),
        table=table(rows) if rows else "",
        below=below_table(rows),
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
    images = {f"{row.n_images:,} images" for row in rows if row.n_images is not None}
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


def plot_section(name: str) -> str:
    """A heading and the part of `page_assets` that belongs to it; its script fills it."""
    return f'<section id="{name}-section"><h2>{HEADINGS[name]}</h2>\n{asset(name + ".html")}</section>\n'


def details(rows: list[Row]) -> str:
    """What the columns mean, and the sections of `report.md` that are not on the page in another form; all folded."""
    meanings = [f"**{heading(c)}**: {c.meaning}." for c in table_columns(group_rows(rows)) if c.meaning]
    sections = {"What the columns mean": bullets([*meanings, "An empty cell was not measured."]) if rows else ""}
    sections |= {title: body(rows) for title, body, _ in SECTIONS if title not in ELSEWHERE}
    return "".join(
        f"<details><summary>{title}</summary>\n{to_html(text)}</details>\n" for title, text in sections.items() if text
    )


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
