"""Bokeh's figures of the page: drawn here once, filled and refilled by the page's own scripts.

They carry no callbacks, which Bokeh could only run with `eval`. Their colours are CSS variables (`page.css`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reports.plots.style import GREY, PALETTE

if TYPE_CHECKING:
    from bokeh.plotting import figure

SCORED = {"train_top1": "training", "validation_top1": "validation"}
TOOLTIP = """<div style="margin:-5px; padding:8px 12px; max-width:340px; background:var(--card); color:var(--text);
font:13px/1.45 system-ui, sans-serif">%s</div>"""


def figures(data: dict[str, Any]) -> dict[str, Any]:
    """For `Bokeh.embed.embed_item`, by the id of the element that takes it: those for which there is data."""
    from bokeh.embed import json_item

    found: dict[str, figure] = {}
    if "pareto" in data:
        found["pareto"] = pareto()
    if any(part["matrix"] for part in data.get("confusion", [])):
        found["confusion"] = confusion()
    if any(part["recall"] for part in data.get("confusion", [])):
        found["recall"] = recall()
    parts = data.get("training", [])
    noted = [name for name in ("loss", *SCORED) if any(value is not None for part in parts for value in part[name])]
    if "loss" in noted:
        found["loss"] = curves("loss", "training loss")
    if scored := [SCORED[name] for name in noted if name in SCORED]:
        found["train_top1"] = curves("train_top1", f"top-1 of {' and '.join(scored)} images, %")
    return {name: renumbered(json_item(plot), name) for name, plot in found.items()}


def bokeh_js() -> str:
    """The library itself, without widgets, tables and formulas."""
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"], minified=True, log_level="warn").js_raw)


def renumbered(item: Any, prefix: str) -> Any:
    """The same figure with ids counted from 0: Bokeh's own count goes on over the life of a process."""
    names: dict[str, str] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(part) for part in node]
        if not isinstance(node, dict):
            return node
        # Bokeh writes tables as lists of pairs, so that a key "id" is always that of a model.
        new = {key: walk(value) for key, value in node.items() if key != "id"}
        return new | ({"id": names.setdefault(node["id"], f"{prefix}{len(names)}")} if "id" in node else {})

    document = walk(item["doc"])
    return {"root_id": names[item["root_id"]], "doc": document}


def canvas(name: str, **more: Any) -> figure:
    """An empty figure as wide as its place; dragging scrolls the page until a tool is chosen."""
    from bokeh.plotting import figure

    options: dict[str, Any] = {"tools": "", "toolbar_location": None, "sizing_mode": "stretch_width"}
    plot = figure(name=name, min_border_right=12, background_fill_color=None, border_fill_color=None, **options | more)
    plot.toolbar.logo = None
    plot.outline_line_color = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.axis_label_text_font_size = "13px"
    plot.axis.major_label_text_font_size = "12px"
    plot.axis.minor_tick_line_color = None
    return plot


def pareto() -> figure:
    from bokeh.models import BasicTickFormatter, ColumnDataSource, FixedTicker, HoverTool, Range1d

    plot = canvas(
        "pareto", height=440, x_axis_type="log", x_range=Range1d(start=1, end=10), y_range=Range1d(start=0, end=100),
        tools="pan,box_zoom,wheel_zoom,reset,save", toolbar_location="above", active_drag=None,
    )  # fmt: skip
    # A logarithmic axis labels only powers of ten, or leaves its lower half empty; the script does better.
    plot.xaxis.ticker = plot.xgrid.ticker = FixedTicker(ticks=[])
    plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    names = ("x", "y", "left", "right", "low", "high", "color", "alpha", "marker", "size", "variant", "runtime", "text")
    source = ColumnDataSource({name: [] for name in names}, name="points")
    front = ColumnDataSource({"x": [], "y": []}, name="front")
    plot.line("x", "y", source=front, line_color=GREY, line_dash=[6, 4], line_width=1.5)
    bars = {"source": source, "line_color": "color", "line_alpha": 0.5, "line_width": 1.5}
    plot.segment("left", "y", "right", "y", **bars)
    plot.segment("x", "low", "x", "high", **bars)
    dots = plot.scatter(
        "x", "y", source=source, marker="marker", size="size", line_color="color", line_width=1.5, fill_color="color",
        fill_alpha="alpha",
    )  # fmt: skip
    about = '<b>@variant</b> in @runtime<div style="white-space:pre-line">@text</div>'
    plot.add_tools(HoverTool(renderers=[dots], tooltips=TOOLTIP % about, limit=2))
    return plot


def confusion() -> figure:
    """Rows are true classes, from the top down; columns are predicted classes."""
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
    from bokeh.palettes import Blues256
    from bokeh.transform import linear_cmap

    plot = canvas(
        "confusion", sizing_mode="fixed", x_range=Range1d(start=-0.5, end=0.5), y_range=Range1d(start=0.5, end=-0.5),
        x_axis_label="predicted", y_axis_label="true", x_axis_location="above",
    )  # fmt: skip
    plot.axis.ticker = FixedTicker(ticks=[])
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = None
    plot.xaxis.major_label_orientation = "vertical"
    plot.grid.visible = False
    names = ("x", "y", "share", "count", "shown", "ink", "true", "predicted")
    source = ColumnDataSource({name: [] for name in names}, name="cells")
    colours = linear_cmap("share", Blues256[::-1], 0, 1)
    cells = plot.rect("x", "y", 1, 1, source=source, fill_color=colours, line_color=None)
    plot.text(
        "x", "y", "shown", source=source, text_color="ink", text_align="center", text_baseline="middle",
        text_font_size="11px",
    )  # fmt: skip
    about = "<b>@count</b> of class <b>@true</b> were called <b>@predicted</b>"
    plot.add_tools(HoverTool(renderers=[cells], tooltips=TOOLTIP % about))
    return plot


def recall() -> figure:
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d

    plot = canvas(
        "recall", x_range=Range1d(start=0, end=100), y_range=Range1d(start=0.5, end=-0.5), x_axis_label="recall, %"
    )
    plot.yaxis.ticker = FixedTicker(ticks=[])
    plot.ygrid.visible = False
    plot.yaxis.major_tick_line_color = None
    source = ColumnDataSource({name: [] for name in ("y", "recall", "name", "text")}, name="bars")
    bars = plot.hbar("y", 0.7, "recall", source=source, fill_color=PALETTE[0], line_color=None)
    plot.add_tools(HoverTool(renderers=[bars], tooltips=TOOLTIP % "<b>@name</b>: @text %"))
    return plot


def curves(name: str, label: str) -> figure:
    """A line for each variant, and its points, which say what they are."""
    from bokeh.models import ColumnDataSource, HoverTool, Range1d

    ranges = {"x_range": Range1d(start=0, end=1), "y_range": Range1d(start=0, end=1)}
    plot = canvas(name, height=280, x_axis_label="epoch", y_axis_label=label, **ranges)
    lines = ColumnDataSource({key: [] for key in ("xs", "ys", "color", "dash")}, name="lines")
    plot.multi_line("xs", "ys", source=lines, line_color="color", line_dash="dash", line_width=2)
    points = ColumnDataSource({key: [] for key in ("x", "y", "color", "variant", "what")}, name="points")
    dots = plot.scatter("x", "y", source=points, size=5, color="color")
    about = "<b>@variant</b>, epoch @x<br>@what @y{0.[000]}"
    plot.add_tools(HoverTool(renderers=[dots], tooltips=TOOLTIP % about))
    return plot
