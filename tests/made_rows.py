"""Rows that tests make up, and tables as a Markdown parser sees them."""

import re
from dataclasses import replace
from typing import Any

from markdown_it import MarkdownIt

from reports import Row
from reports.table import markdown_table

BARE: dict[str, Any] = {
    "variant": "vit", "methods": [], "runtime": "torch", "device": "cpu", "device_name": "Test CPU", "batch_size": 1,
    "threads": 2, "dataset": "digits", "seed": 0,
}  # fmt: skip
HOSTILE = "a|b\n## `x` <script>alert(1)</script> \\| [l](http://e) *s* $x_{$ \x1b[31m"


def bare(**given: Any) -> Row:
    return Row(**BARE | given)


def example_rows() -> list[Row]:
    """Three variants, two runtimes, two batch sizes, as a run on a small CPU could give."""
    correct = {"vit": 353, "avit": 351, "avit_int8": 350}
    bounds = {"vit": (0.960, 0.991), "avit": (0.953, 0.987), "avit_int8": (0.949, 0.985)}
    times = {  # ms: (batch 1, batch 32)
        ("vit", "torch"): (1.93, 21.4), ("avit", "torch"): (2.31, 15.2), ("avit_int8", "torch"): (2.28, 11.9),
        ("vit", "onnxruntime"): (0.71, 17.9), ("avit", "onnxruntime"): (0.70, 12.6),
        ("avit_int8", "onnxruntime"): (0.48, 8.1),
    }  # fmt: skip
    macs = {"vit": 54.6e6, "avit": 36.1e6, "avit_int8": 36.1e6}
    methods: dict[str, list[dict[str, Any]]] = {"vit": [], "avit": [{"name": "avit", "ponder": 5e-4, "eps": 0.01}]}
    methods["avit_int8"] = [*methods["avit"], {"name": "int8", "scheme": "dynamic"}]
    rows = []
    for (variant, runtime), pair in times.items():
        for batch_size, ms in zip((1, 32), pair, strict=True):
            dense = times["vit", runtime][0 if batch_size == 1 else 1]
            speedup = dense / ms
            padding = 1.0 if batch_size == 1 or variant == "vit" else 1.08
            row = Row(
                **BARE
                | {
                    "variant": variant, "methods": methods[variant], "runtime": runtime, "batch_size": batch_size,
                    "device_name": "Intel Xeon Platinum 8481C", "executed": "int8" if "int8" in variant else "fp32",
                    "dtype": "int8" if "int8" in variant else "fp32",
                    "n_images": 360, "top1": correct[variant] / 360, "top1_low": bounds[variant][0],
                    "top1_high": bounds[variant][1], "params": 812_426, "file_bytes": 912_204 if "int8" in variant
                    else 3_301_442, "macs_per_image": macs[variant] * padding,
                    "ceiling": 54.6e6 / macs[variant] / padding,
                    "latency_samples_s": [ms * (0.97 + 0.01 * (i % 7) ** 1.3) / 1e3 for i in range(60)],
                    "load_s": 0.041, "first_call_s": 0.012, "peak_memory_bytes": 311_000_000, "speedup": speedup,
                    "speedup_low": speedup * 0.98 if variant != "vit" else 1.0,
                    "speedup_high": speedup * 1.03 if variant != "vit" else 1.0,
                    "config": {"dataset": "digits", "vit": {"depth": 6, "dim": 96}}, "key": "0f3a",
                    "command": "python run_bench.py --variants vit,avit,avit_int8",
                    "classes": ["zero", "one"], "class_recall": [0.97, 0.99], "confusion": [[97, 3], [1, 99]],
                    "training": [{"epoch": 1, "loss": 2.0, "train_top1": 0.3}, {"epoch": 2, "loss": 1.0}],
                    "environment": {"cpu": "Intel Xeon", "commit": "ada3fb2", "versions": {"torch": "2.14.1"},
                                    "time": f"2026-09-01T10:{len(rows):02d}:00Z"},
                }
            )  # fmt: skip
            if variant == "vit":
                row = replace(
                    row, macs_counters={"closed_form": 54.6e6, "fvcore": 54.6e6, "thop": 46.1e6, "torch": 54.6e6}
                )
            else:
                row = replace(
                    row, agreement=0.986, mcnemar_p=0.5 if variant == "avit" else 0.375, macs_promised=33.9e6,
                    macs_quantiles=[21.0e6, 27.5e6, 35.2e6, 45.9e6, 54.6e6],
                    tokens_per_block=[17, 17, 14.2, 9.1, 6.3, 4.4],
                )  # fmt: skip
            if runtime == "torch" and variant == "avit_int8":
                row = replace(row, executed="int8-simulated", warnings=["int8 is simulated in this runtime"])
            if variant == "avit":
                before = {"before_top1": 0.75, "before_macs": 36.0e6}
                found = [{"epoch": 1, "loss": 2.0, "top1": 0.9, "macs": 36.2e6, **before}]
                row = replace(row, training=[*found, {"epoch": 2, "loss": 1.0, "top1": 0.97, "macs": 36.1e6}])
            rows.append(row)
    why = "the exported file differs from its source by 0.3"
    return [*rows, bare(variant="tome_int8", device_name=rows[0].device_name, runtime="onnxruntime", failed=why)]


def page_with(text: str) -> Row:
    """A row that carries the text wherever something foreign can stand."""
    return replace(
        example_rows()[2], variant=text, runtime=text, dataset=text, device=text, device_name=text, executed=text,
        methods=[{"name": text, "x": text}], warnings=[text], failed=text, command=text, config={text: text},
        environment={text: {text: text}}, macs_counters={text: 1.0}, classes=[text, "one"],
    )  # fmt: skip


def slow_down(row: Row, times: float, machine: float = 1.0) -> Row:
    """The same row where the program takes `times` as long, on a machine that is slower at everything."""
    standing = [times * (end or 0) for end in (row.standing, row.standing_low, row.standing_high)]
    samples = [times * machine * sample for sample in row.latency_samples_s]
    names = ("standing", "standing_low", "standing_high")
    return replace(row, latency_samples_s=samples, **dict(zip(names, standing, strict=True)))


def to_html(markdown: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


def cells(row: Row) -> dict[str, str]:
    """The one line of a table as a Markdown parser sees it, by header."""
    header, body = re.findall(r"<tr>(.*?)</tr>", to_html(markdown_table([row])), re.S)
    inside = r"<t[hd][^>]*>(.*?)</t[hd]>"
    return dict(zip(re.findall(inside, header), re.findall(inside, body), strict=True))
