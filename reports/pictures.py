"""Pictures of test images: which patches left a variant in which block, where it looked, what it answered.

They are laid out in pixels, so that each pixel of an image becomes a square and all squares are of one size.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reports.pixels import heated, veiled
from reports.row import Row, RowError
from reports.text import clean

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELL = 128  # pixels: about the longer side of an enlarged image
GAP, LINE, TITLE, LABELS = 12, 20, 64, 170  # pixels: heights of a line of text and of a title, width of labels
MOST_IMAGES, MOST_BLOCKS = 8, 6  # in the picture of patches that leave
LARGEST = 1024  # pixels a side of an image in a row; those we write have 96
INK, GREY, RIGHT, WRONG = "#1a1a1a", "#666666", "#00714f", "#b3400a"
CAPTIONS = {
    "halting": "Patches that {} still computes in each block of hand-picked images: those in blue were pruned, halted "
    "or merged; the figures are shares of patches left.",
    "rollout": "Attention of {} on hand-picked images: attention rollout (Abnar and Zuidema 2020) beside each image, "
    "from its lowest (dark) to its highest (bright) patch.",
    "predictions": "Predictions of {} on hand-picked test images (half are errors of the baseline, if it makes that "
    "many): true class, prediction and confidence.",
}


@dataclass(frozen=True)
class Example:
    """A test image, and what one variant did with it."""

    image: NDArray[Any]  # (height, width, 3) uint8, enlarged
    label: str
    predicted: str
    confidence: str
    right: bool
    depth: int
    blocks: NDArray[Any]  # (rows, columns) in how many blocks each patch ran
    rollout: NDArray[Any]  # (rows, columns) attention rollout


def pictures(rows: list[Row]) -> dict[str, bytes]:
    """PNG files by name: `halting_*`, `rollout_*` and `predictions_*`; none where no row has examples.

    Raises:
        RowError: the examples of a row cannot be read.
    """
    from matplotlib import rc_context, rcdefaults

    draw = {"halting": halting, "rollout": rollout, "predictions": predictions}
    with rc_context(), warnings.catch_warnings():  # whatever style the user has, comes back afterwards
        rcdefaults()
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks
        return {file: draw[kind](variant, examples).png() for file, kind, variant, examples in planned(rows)}


def captions(rows: list[Row]) -> list[tuple[str, str]]:
    """File name and one sentence, not escaped, of each of the `pictures`, in their order; raises as they do."""
    return [(file, CAPTIONS[kind].format(variant)) for file, kind, variant, _ in planned(rows)]


def planned(rows: list[Row]) -> list[tuple[str, str, str, list[Example]]]:
    """File, kind, variant and examples of each picture.

    Attention is for the baseline and each way of stopping, without the variants that do more to the same model.
    """
    shown = {row.variant: row for row in rows if row.examples}
    examples = {name: examples_of(row) for name, row in shown.items()}
    methods = {name: {method.get("name") for method in row.methods} for name, row in shown.items()}
    stopping = [name for name in shown if any((it.blocks < it.depth).any() for it in examples[name])]
    plan: list[tuple[str, str, str, list[Example]]] = []
    for name, file in zip(shown, file_names(list(shown)), strict=True):
        stops = name in stopping
        plain = stops and not any(methods[other] < methods[name] for other in stopping)
        wanted = {"halting": stops, "rollout": plain or not methods[name], "predictions": True}
        plan += [(f"{kind}_{file}.png", kind, clean(name), examples[name]) for kind in wanted if wanted[kind]]
    return plan


def file_names(variants: Sequence[str]) -> list[str]:
    """For each variant a name of its own that every file system and URL takes."""
    names: list[str] = []
    for variant in variants:
        stem = re.sub(r"[^a-z0-9]+", "_", variant.lower()).strip("_")[:60] or "variant"
        names.append(next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, 2 + len(variants)))) if n not in names))
    return names


def examples_of(row: Row) -> list[Example]:
    """Raises RowError where they are not what `compress` writes."""
    try:
        return [read(example, row.classes) for example in row.examples or []]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError, SyntaxError) as error:
        fault = clean(error) or type(error).__name__
        raise RowError(f"the examples of {clean(row.variant)} cannot be read ({fault}); measure it again") from error


def read(example: dict[str, Any], classes: list[str] | None) -> Example:
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(example["png"])), formats=["PNG"]) as picture:
        if max(picture.size) > LARGEST:
            raise ValueError(f"an image of {picture.width}x{picture.height} pixels")
        pixels = np.asarray(picture.convert("RGB"))
    factor = max(1, round(CELL / max(pixels.shape)))
    label, predicted = (clean(classes[i]) if classes else str(i) for i in (example["label"], example["predicted"]))
    return Example(
        image=pixels.repeat(factor, 0).repeat(factor, 1),
        label=label,
        predicted=predicted,
        confidence=f"{100 * example['confidence']:.0f} %",
        right=example["label"] == example["predicted"],
        depth=int(example["depth"]),
        blocks=np.array(example["blocks"], int).reshape(example["grid"]),
        rollout=np.array(example["rollout"], float).reshape(example["grid"]),
    )


def halting(variant: str, examples: list[Example]) -> Sheet:
    """A line for each image: as it is, then block after block with the patches that are gone under a veil."""
    examples = evenly(examples, MOST_IMAGES)
    height, width = examples[0].image.shape[:2]
    blocks = telling(examples)
    wide, tall = width + GAP, height + LINE + GAP
    sheet = Sheet(LABELS + (1 + len(blocks)) * wide, TITLE + LINE + GAP + len(examples) * tall)
    sheet.title(
        f"{variant}: patches left in each block",
        "hand-picked images; blue: no longer computed; %: patches left",
    )
    for column, head in enumerate(["image", *(f"block {block}" for block in blocks)]):
        sheet.text(head, LABELS + column * wide + width / 2, TITLE, GREY, ha="center")
    for line, it in enumerate(examples):
        top = TITLE + LINE + GAP // 2 + line * tall
        sheet.words(it, GAP, top + (height - 3 * LINE) // 2, LABELS - 2 * GAP)
        sheet.image(it.image, LABELS, top)
        for column, block in enumerate(blocks, 1):
            left, running = LABELS + column * wide, it.blocks >= block
            sheet.image(veiled(it.image, running), left, top)
            sheet.text(f"{100 * running.mean():.0f} %", left + width / 2, top + height + 2, GREY, ha="center")
    return sheet


def rollout(variant: str, examples: list[Example]) -> Sheet:
    """Pairs of an image and the same under its attention rollout."""
    height, width = examples[0].image.shape[:2]
    across = min(4, len(examples))
    wide, tall = 2 * width + 3 * GAP, height + LINE + GAP
    sheet = Sheet(across * wide, TITLE + -(-len(examples) // across) * tall)
    sheet.title(f"{variant}: attention rollout", "hand-picked images; dark: lowest attention, bright: highest")
    for place, it in enumerate(examples):
        left, top = GAP + place % across * wide, TITLE + place // across * tall
        sheet.image(it.image, left, top)
        sheet.image(heated(it.image, it.rollout), left + width + 2, top)
        words = it.label if it.right else f"{it.label}; predicted {it.predicted}"
        sheet.text(words, left, top + height + 2, INK if it.right else WRONG, room=2 * width)
    return sheet


def predictions(variant: str, examples: list[Example]) -> Sheet:
    """Images in frames of the colour of the verdict, with true class, answer and verdict below."""
    import numpy as np

    height, width = examples[0].image.shape[:2]
    across = min(8, len(examples))
    wide, tall = max(width, CELL) + 2 * GAP, height + 3 * LINE + 2 * GAP
    sheet = Sheet(across * wide + GAP, TITLE + -(-len(examples) // across) * tall)
    right = f"{sum(it.right for it in examples)} of {len(examples)} correct"
    sheet.title(f"{variant}: predictions", f"{right}; hand-picked: up to half are errors of the baseline")
    for place, it in enumerate(examples):
        left, top = GAP + place % across * wide, TITLE + place // across * tall
        frame = np.full((height + 8, width + 8, 3), list(bytes.fromhex((RIGHT if it.right else WRONG)[1:])), np.uint8)
        frame[4:-4, 4:-4] = it.image
        sheet.image(frame, left, top)
        sheet.words(it, left, top + height + GAP, wide - GAP)
    return sheet


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """Up to `most` of the items, the first and the last among them."""
    last = len(items) - 1
    return list(items) if last < most else [items[round(i * last / (most - 1))] for i in range(most)]


def telling(examples: list[Example]) -> list[int]:
    """Numbers of the blocks, from 1 on, that show how patches leave; of many, those before which some did."""
    depth = examples[0].depth
    ran = {int(count) for it in examples for count in it.blocks.flat}
    every = range(1 if 0 in ran else 2, depth + 1)  # where all patches run there is nothing to see
    return evenly(every if len(every) <= MOST_BLOCKS else [b for b in every if b - 1 in ran], MOST_BLOCKS)


class Sheet:
    """A white sheet, measured in pixels from its upper left corner."""

    def __init__(self, width: int, height: int):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure((width / 128, height / 128), dpi=128)  # a power of two: nothing is lost to rounding
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()

    def image(self, pixels: NDArray[Any], left: int, top: int) -> None:
        self.figure.figimage(pixels, left, self.height - top - len(pixels), origin="upper")

    def text(self, text: str, x: float, top: float, colour: str = INK, room: float = 1e9, **look: Any) -> None:
        """One line, cut where it is wider than `room` pixels."""
        line = self.figure.text(x / self.width, 1 - top / self.height, text, color=colour, va="top", parse_math=False)
        line.set(**{"fontsize": 8} | look)
        while text and (width := line.get_window_extent(self.renderer).width) > room:
            text = text[: min(len(text) - 1, int(len(text) * room / width))]
            line.set_text(text + "…")

    def title(self, text: str, explanation: str) -> None:
        self.text(text, GAP, GAP / 2, room=self.width - 2 * GAP, fontsize=10, fontweight="bold")
        self.text(explanation, GAP, GAP / 2 + LINE + 4, GREY, room=self.width - 2 * GAP)

    def words(self, example: Example, x: float, top: float, room: float) -> None:
        verdict, colour = ("✓ correct", RIGHT) if example.right else ("✗ wrong", WRONG)
        self.text(example.label, x, top, INK, room, fontweight="bold")
        self.text(f"predicted {example.predicted}", x, top + LINE, INK, room)
        self.text(f"{verdict}, {example.confidence}", x, top + 2 * LINE, colour, room)

    def png(self) -> bytes:
        file = io.BytesIO()
        self.figure.savefig(file, format="png", dpi="figure", metadata={"Software": None})
        return file.getvalue()
