"""`report.html` in a real browser: nothing is fetched, every figure is that of its row, every control works."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from reports.classes import confused
from reports.columns import COLUMNS
from reports.markdown import SECTIONS
from reports.page import report_html, to_html
from reports.page_data import plot_data
from reports.reading import parse_rows, read_rows
from reports.results import Result, group_rows
from reports.row import Row, RowError
from reports.text import clean

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PUBLISHED = Path(__file__).parents[1] / "reports/published"
CLASSES = ["airplane", "cat", "dog"]
HOSTILE = "</script><script>alert(1)</script><!-- \"'><img src=x onerror=alert(2)> $$x$$ {{7}} @y &amp; |\n`*~"
COLUMN = {column.key: column for column in COLUMNS}


def example(variant: str, index: int) -> dict[str, Any]:
    """An 8 x 8 image of 4 x 4 patches; those of the lower half stop early unless the variant is the baseline."""
    file = io.BytesIO()
    Image.frombytes("RGB", (8, 8), bytes((29 * i * (index + 1)) % 256 for i in range(192))).save(file, "PNG")
    return {
        "png": base64.b64encode(file.getvalue()).decode(), "index": index, "label": index % 3, "predicted": index % 2,
        "confidence": 0.913, "depth": 6, "grid": [4, 4], "blocks": [6] * 8 + ([6] * 8 if variant == "vit" else [2] * 8),
        "rollout": [i / 15 for i in range(16)],
    }  # fmt: skip


def rich_rows() -> list[Row]:
    """Three variants in two runtimes at two batch sizes, with all that a row can carry; one failure."""
    rows = []
    for b, batch_size in enumerate((1, 32)):
        for v, variant in enumerate(("vit", "avit", "avit_int8")):
            for r, runtime in enumerate(("torch", "onnxruntime")):
                ms = (2.0, 23.5)[b] * (1, 0.8, 1.1)[v] * (1, 0.75)[r]
                row = Row(
                    variant=variant, methods=[{"name": "avit"}] * bool(v), runtime=runtime, device="cpu",
                    device_name="Test CPU", batch_size=batch_size, threads=2, dataset="pets", seed=0, n_images=300,
                    dtype="int8" if v == 2 else "fp32",
                    executed="fp32", top1=0.9 - 0.01 * v, top1_low=0.86 - 0.01 * v, top1_high=0.93 - 0.01 * v,
                    params=812_426, file_bytes=3_301_442 - 10**6 * v, macs_per_image=54.6e6 - 9e6 * v, classes=CLASSES,
                    latency_samples_s=[1e-3 * ms * (0.96 + 0.01 * (i % 9)) for i in range(45)], ceiling=1 + 0.2 * v,
                    agreement=None if variant == "vit" else 0.986, peak_memory_bytes=300_000_000 + 10**7 * v,
                    speedup=(1, 1.25, 1 / 1.1)[v], speedup_low=(1, 1.21, 0.88)[v], speedup_high=(1, 1.3, 1.01)[v],
                    confusion=[[90, 6, 4], [5, 80 + v, 15 - v], [1, 9, 90]], class_recall=[0.9, 0.8 + 0.01 * v, 0.9],
                    config={"model": {"depth": 6}}, environment={"cpu": "Test CPU", "time_utc": "2026-09-01T10:00:00Z"},
                    command="python run_bench.py --variants vit,avit,avit_int8",
                )  # fmt: skip
                if (runtime, batch_size) == ("torch", 1):
                    training = [{"epoch": e, "loss": 2.0 / e, "train_top1": 1 - 0.5 / e} for e in range(1, 7)]
                    row = replace(row, examples=[example(variant, i) for i in range(6)], training=training)
                rows.append(row)
    rows[4] = replace(rows[4], warnings=["int8 is simulated in this runtime"], executed="int8-simulated")
    failed = replace(
        rows[5], variant="tome", latency_samples_s=[], top1=None, speedup=None, failed="the file differs by 0.3"
    )
    return [*rows, failed]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    if BROWSER is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """A page that the browser has opened, every figure drawn."""

    def __init__(self, browser: webdriver.Chrome, path: Path):
        self.browser, self.path = browser, path
        for log in ("browser", "performance"):  # what is left of the page before
            browser.get_log(log)
        browser.get(path.as_uri())
        drawn = """const figures = (window.Bokeh?.documents ?? []).map((d) => d.roots()[0]);
            const filled = (figure) => figure.renderers.some((r) => Object.values(r.data_source.data)[0].length);
            return document.querySelectorAll(".plot").length === figures.length && figures.every(filled);"""
        WebDriverWait(browser, 10).until(lambda b: b.execute_script(drawn))
        self.log = [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        self.fetched = [url for url in asked if not url.startswith("data:") and url != path.as_uri()]

    def __call__(self, script: str, *given: Any) -> Any:
        return self.browser.execute_script(script, *given)

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def column(self, key: str) -> list[str]:
        """The visible cells below a heading, from the top down."""
        return self(
            """const headings = [...document.querySelectorAll("#rows thead th")];
            const column = headings.findIndex((heading) => heading.dataset.key === arguments[0]);
            const lines = [...document.querySelectorAll("#rows tbody tr")].filter((line) => !line.hidden);
            const cells = lines.map((line) => line.cells[column]);
            return cells.map((cell) => (cell.querySelector("span") ?? cell).textContent);""",
            key,
        )

    def plotted(self, figure: str, source: str) -> dict[str, list[Any]]:
        """The columns that Bokeh draws now."""
        return self(
            """const [figure, source] = arguments;
            const plot = Bokeh.documents.map((d) => d.roots()[0]).find((f) => f.name === figure);
            const {data} = plot.renderers.map((r) => r.data_source).find((s) => s.name === source);
            return Object.fromEntries(Object.entries(data).map(([name, column]) => [name, [...column]]));""",
            figure,
            source,
        )

    def choose(self, selector: str, value: str) -> None:
        Select(self.find(selector)).select_by_value(value)


@pytest.fixture(scope="module")
def opened(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Row]], Page]:
    def open_page(rows: list[Row]) -> Page:
        path = tmp_path_factory.mktemp("page") / "report.html"
        path.write_bytes(report_html(rows))
        return Page(browser, path)

    return open_page


@pytest.fixture
def page(opened: Callable[[list[Row]], Page]) -> Page:
    return opened(rich_rows())


def old_rows() -> list[Row]:
    path = Path(__file__).parent / "files" / "rows_of_version_0.1.0.jsonl"
    return parse_rows(path.read_text(), path.name)


@pytest.mark.parametrize("rows", [rich_rows(), old_rows(), []], ids=["all", "version 0.1.0", "none"])
def test_it_opens_from_a_file_without_an_error_or_a_request(opened: Callable[[list[Row]], Page], rows: list[Row]):
    page = opened(rows)
    assert (page.log, page.fetched) == ([], [])
    assert page("return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'))") == []
    foreign = "const script = document.createElement('script'); script.textContent = 'window.ran = true';"
    assert page(foreign + "document.body.append(script); return window.ran ?? null") is None  # the policy forbids it
    assert len(page.column("variant")) == sum(row.failed is None for row in rows)
    sections = {f"{name}-section" for name in ("pareto", "gallery", "confusion", "training")}
    there = set(page("return [...document.querySelectorAll('section')].map((s) => s.id)")) & sections
    assert there == (sections if rows and rows[0].classes else {"pareto-section"} if rows else set())


def test_every_cell_says_what_its_row_says(page: Page):
    ordered = [result for group in group_rows(rich_rows()) for result in group.results]
    for key in ("variant", "runtime", "executed", "top1", "latency_s", "speedup", "batch_size", "file_bytes"):
        assert page.column(key) == [COLUMN[key].show(result) for result in ordered], key
    assert "~0.91 [0.88, 1.01]" in page.column("speedup")
    assert page.find(".failures").text.endswith("tome in onnxruntime failed: the file differs by 0.3")
    assert page("return document.querySelector('#rows details').textContent") == (
        "1 noteint8 is simulated in this runtime"
    )
    assert "compression alone" in page.find("th[data-key=speedup]").get_attribute("title")


def test_a_heading_sorts_by_the_raw_values_with_empty_cells_last(page: Page):
    known = sorted((row for row in rich_rows() if row.latency_s), key=lambda row: row.latency_s or 0)
    texts = [COLUMN["latency_s"].show(Result(row)) for row in known]
    heading = page.find("th[data-key=latency_s]")
    heading.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert page.column("latency_s") == texts
    heading.find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert heading.get_attribute("aria-sort") == "descending"
    assert page.column("latency_s") == list(reversed(texts))
    for _ in range(2):  # the dense models have no change
        page.find("th[data-key=top1_change] button").click()
        assert page.column("top1_change")[-4:] == [""] * 4
    page.find("th[data-key=variant] button").click()
    assert heading.get_attribute("aria-sort") == "none"
    assert page.column("variant") == sorted(row.variant for row in rich_rows() if row.failed is None)


def test_boxes_filter_the_rows(page: Page):
    page.choose("[data-filter=batch]", "32")
    assert page.column("batch_size") == ["32"] * 6
    page.choose("[data-filter=runtime]", "onnxruntime")
    assert page.find("#count").text == "3 of 12 rows"
    page.choose("[data-filter=batch]", "")
    page.choose("[data-filter=runtime]", "")
    page.find("#filter-text").send_keys("simulated INT8")
    assert page.column("variant") == ["avit_int8"]
    page.find("#filter-text").clear()
    assert page.find("#count").text == "12 rows"


def test_the_plot_follows_axes_group_and_legend(page: Page):
    rows = {(row.variant, row.runtime): row for row in rich_rows() if row.batch_size == 32}

    def names(points: dict[str, list[Any]]) -> list[tuple[str, str]]:
        return list(zip(points["variant"], points["runtime"], strict=True))

    page.choose("#pareto-group", "1")
    points = page.plotted("pareto", "points")
    drawn = [rows[name] for name in names(points)]
    assert len(drawn) == 6
    for column, name, unit in (("x", "latency_s", 1e3), ("left", "latency_p10_s", 1e3), ("high", "top1_high", 100)):
        assert points[column] == pytest.approx([unit * getattr(row, name) for row in drawn])
    assert "top-1 % [95 %]: 88.0 [84.0, 91.0]" in points["text"][drawn.index(rows["avit_int8", "torch"])]
    front = page.plotted("pareto", "front")
    assert front["y"] == pytest.approx([89, 89, 90, 90])  # avit, then vit, both in onnxruntime
    corners = [rows[variant, "onnxruntime"].latency_s or 0 for variant in ("avit", "vit", "vit")]
    assert front["x"][:3] == pytest.approx([1e3 * seconds for seconds in corners])

    page.choose("#pareto-x", "images_per_s")
    page.choose("#pareto-y", "speedup")
    points = page.plotted("pareto", "points")
    assert points["x"] == pytest.approx([rows[name].images_per_s for name in names(points)])
    assert points["low"] == pytest.approx([rows[name].speedup_low for name in names(points)])
    front = page.plotted("pareto", "front")
    assert front["x"][0] == pytest.approx(rows["avit", "onnxruntime"].images_per_s)  # best on both: a front of one
    assert (front["x"][1] < 1, len(front["x"])) == (True, 2)  # which goes on to the left

    button = next(b for b in page.browser.find_elements(By.CSS_SELECTOR, "#pareto-key button") if b.text == "● avit")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert set(page.plotted("pareto", "points")["variant"]) == {"vit", "avit_int8"}


def test_the_slider_darkens_what_had_stopped(page: Page):
    def alphas() -> list[int]:
        pixels = """const canvas = document.querySelector("#gallery canvas");
            return [...canvas.getContext("2d").getImageData(0, 0, 4, 4).data];"""
        return page(pixels)[3::4]

    def slide(block: int) -> str:
        slider = "const s = document.getElementById('gallery-block'); s.value = arguments[0];"
        page(slider + "s.dispatchEvent(new Event('input'))", block)
        return page.find("#gallery .running").text

    stopped = alphas()[15]
    assert page.find("#gallery-variant").get_property("value") == "1"  # the first variant in which any patch stops
    assert alphas() == [0] * 8 + [stopped] * 8  # the last block
    assert stopped > 150
    assert slide(2) == "16 of 16 patches run"
    assert alphas() == [0] * 16
    assert slide(3) == "8 of 16 patches run"
    assert alphas() == [0] * 8 + [stopped] * 8
    page.find("#gallery-rollout").click()
    assert alphas()[:8] == sorted(set(alphas()[:8]))  # rollout grows from patch to patch
    page.choose("#gallery-variant", "0")
    assert slide(6) == "16 of 16 patches run"
    captions = page("return [...document.querySelectorAll('#gallery b')].map((b) => [b.textContent, b.className])")
    assert captions[:3] == [
        ["right: airplane", "right-answer"],
        ["right: cat", "right-answer"],
        ["wrong: airplane, is dog", "wrong-answer"],
    ]


def test_classes_and_training_are_drawn_as_they_were_recorded(page: Page):
    page.choose("#confusion-choice", "2")
    cells = page.plotted("confusion", "cells")
    assert cells["count"] == [90, 6, 4, 5, 82, 13, 1, 9, 90]
    assert (cells["true"][5], cells["predicted"][5], cells["share"][5]) == ("cat", "dog", 0.13)
    assert page.plotted("recall", "bars")["recall"] == pytest.approx([90, 82, 90])
    assert page.plotted("loss", "lines")["ys"][0] == pytest.approx([2 / e for e in range(1, 7)])
    assert page.plotted("train_top1", "lines")["ys"][0][0] == pytest.approx(50)


def test_the_confusion_of_the_winner_is_shown_first():
    rows = read_rows(PUBLISHED / "digits/rows.jsonl")
    assert {part["label"] for part in plot_data(rows)["confusion"] if part["winner"]} == {"avit_int8"}
    assert [row.label for row in confused(rows)][:2] == ["vit", "avit_int8"]


def hostile_rows() -> list[Row]:
    """The text wherever something foreign can stand."""
    first = rich_rows()[0]
    shown = example("vit", 0) | {"png": HOSTILE}
    row = replace(
        first, variant=HOSTILE, runtime=HOSTILE, dataset=HOSTILE, device=HOSTILE, device_name=HOSTILE, executed=HOSTILE,
        methods=[{"name": HOSTILE, "x": HOSTILE}], warnings=[HOSTILE], command=HOSTILE, config={HOSTILE: HOSTILE},
        environment={HOSTILE: {HOSTILE: HOSTILE}, "time_utc": HOSTILE}, macs_counters={HOSTILE: 1.0},
        classes=[HOSTILE, "__proto__", HOSTILE], examples=[shown],
    )  # fmt: skip
    return [row, replace(row, variant="plain"), replace(row, batch_size=2, failed=HOSTILE), first]


def test_hostile_text_is_text(opened: Callable[[list[Row]], Page]):
    page = opened(hostile_rows())  # an alert would make every call below fail
    assert page.fetched == []
    assert [entry for entry in page.log if "data:image/png" not in entry] == []  # the image is none
    assert page.column("variant")[0] == clean(HOSTILE)
    assert clean(HOSTILE) in page("return document.querySelector('#gallery b').textContent")
    assert clean(HOSTILE) in page("return document.getElementById('pareto-key').textContent")
    assert page("return document.querySelectorAll('img[src=x], [onerror]').length") == 0
    assert page("return document.scripts.length") == 3
    assert page.plotted("pareto", "points")["variant"][0] == clean(HOSTILE)
    overrides = "return [...Bokeh.documents.map((d) => d.roots()[0]).find((f) => f.name === 'confusion')"
    labels = page(overrides + ".left[0].major_label_overrides.values()]")
    assert not any("$$" in label for label in labels)  # Bokeh would fetch MathJax for a formula


def test_on_a_phone_only_the_table_scrolls_sideways(opened: Callable[[list[Row]], Page], browser: webdriver.Chrome):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page = opened([*rich_rows(), replace(rich_rows()[0], variant="w" * 200, runtime="r" * 80, command="c " * 300)])
        assert page("return document.documentElement.scrollWidth") == 390
        assert page("const box = document.getElementById('rows'); return box.scrollWidth > box.clientWidth")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_at_1400_pixels_no_column_is_cut_off(opened: Callable[[list[Row]], Page], browser: webdriver.Chrome):
    size = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for run in ("digits", "cifar10_tokens"):
            page = opened(read_rows(PUBLISHED / run / "rows.jsonl"))
            assert page("const box = document.getElementById('rows'); return box.scrollWidth - box.clientWidth") == 0
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_no_point_hides_another(page: Page):
    rows = [replace(row, latency_samples_s=[2e-3] * 30, top1=0.9, speedup=1.0) for row in rich_rows() if not row.failed]
    sizes = page.plotted("pareto", "points")["size"]
    assert set(sizes) == {12}  # all of them stand apart
    path = page.path.with_name("same.html")
    path.write_bytes(report_html(rows))
    sizes = Page(page.browser, path).plotted("pareto", "points")["size"]
    assert sizes == sorted(set(sizes), reverse=True)  # each is drawn upon a larger one


def test_on_a_dark_page_ink_is_light(opened: Callable[[list[Row]], Page], browser: webdriver.Chrome):
    def dark(value: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": value}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    page = opened(rich_rows())
    light = page.plotted("pareto", "points")["color"][0]
    try:
        dark("dark")
        WebDriverWait(browser, 5).until(lambda _: page.plotted("pareto", "points")["color"][0] != light)
        style = "return getComputedStyle(document.getElementById('pareto'))"
        axis = page(f"{style}.getPropertyValue('--bk-axis-label-text-color')")
        assert axis == page.plotted("pareto", "points")["color"][0]  # the baseline and the axes
    finally:
        dark("")


def test_what_is_not_in_the_rows_is_not_on_the_page():
    rows = [replace(row, top1=float("nan"), latency_samples_s=[], speedup=float("inf")) for row in old_rows()]
    page = report_html([replace(row, agreement=None, overall=None) for row in rows]).decode()
    assert "pareto-section" not in page
    assert len(page) < 100_000  # Bokeh is left out where nothing is drawn
    assert "nan" not in page.split("<tbody>")[1].lower()
    with pytest.raises(RowError, match="examples of vit cannot be read"):
        report_html([replace(rich_rows()[0], examples=[{"png": ""}])])


def test_the_same_rows_give_the_same_bytes():
    assert report_html(rich_rows()) == report_html(rich_rows())
    assert report_html([]) == report_html([])


def test_a_page_needs_neither_matplotlib_nor_bokeh_before_it_is_made():
    heavy = "bokeh", "matplotlib", "numpy", "pandas"
    code = f"import sys, reports.page; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def flat(page: str) -> list[str]:
    """Tags and words, without attributes, frames and the spaces between them."""
    bare = re.sub(r"</?div[^>]*>|(?<=<)(\w+) [^>]*(?=>)", lambda m: m[1] or "", page)
    return unescape(re.sub(r"\s*(</?\w+>)\s*", r" \1 ", bare)).split()


def test_the_markdown_of_the_report_becomes_the_same_html():
    parser = MarkdownIt("commonmark").enable("table")
    for rows in (rich_rows(), hostile_rows(), old_rows()):
        for title, body, _ in (section for section in SECTIONS if section[0] != "Comparison"):
            assert flat(to_html(body(rows))) == flat(parser.render(body(rows))), title
