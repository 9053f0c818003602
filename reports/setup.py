"""What was run: the command, the variants, the machine and the settings, as sections of the page."""

import json
from typing import Any

from reports.row import Row
from reports.text import bold, bullets, clean, escape, fenced, grid


def commands(rows: list[Row]) -> str:
    distinct = dict.fromkeys(clean(row.command) for row in rows if row.command)
    return fenced("\n".join(distinct), "sh") if distinct else ""


def variants(rows: list[Row]) -> str:
    lines = {}
    for row in rows:
        steps = [f"{m.get('name')}({', '.join(f'{k}={v}' for k, v in m.items() if k != 'name')})" for m in row.methods]
        lines[f"{bold(row.label)}: {escape(', then '.join(steps)) or 'the dense model, no method'}"] = None
    return bullets(lines)


def flat(tree: dict[str, Any], above: str = "") -> dict[str, str]:
    """Nested tables as one, with dotted names."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        elif value is not None:
            found[f"{above}{name}"] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def environment(rows: list[Row]) -> str:
    """Each property once, with all values it had over the rows."""
    values: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in flat(row.environment).items():
            values.setdefault(name, {})[clean(value)] = None
    if rows:
        values["seed"] = dict.fromkeys(str(row.seed) for row in rows)
    cells = []
    for name, distinct in values.items():
        shown = list(distinct)
        if len(shown) > 4:
            shown = [shown[0], f"... {len(distinct)} values ...", shown[-1]]
        cells.append([escape(name), escape("; ".join(shown))])
    return grid(["property", "value"], cells, [False, False]) if cells else ""


def configuration(rows: list[Row]) -> str:
    """Each resolved configuration once, under the variants that used it."""
    users: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.config:
            users.setdefault(json.dumps(row.config, indent=2), {})[bold(row.label)] = None
    return "\n\n".join(f"{', '.join(names)}:\n\n{fenced(text, 'json')}" for text, names in users.items())
