"""The comparison table for a paper: it needs `\\usepackage{booktabs}` and nothing else, and `\\input{table}`."""

import re

from reports.columns import SHOWN, Column
from reports.results import Group, group_rows
from reports.row import Row
from reports.table import BEST, describe_failures, explain_marks, number_notes
from reports.text import clean, wrap_heading

# By hand, since what pandas escapes leaves out ligatures, < and >, and letters that a font lacks.
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$", BEST: r"$\star$",
}  # fmt: skip
# Together they would become a dash, a quotation mark, or a mark of another language.
LIGATURE = re.compile(r"([-'`,])(?=\1)|[?!](?=`)")
ACCENTED = "ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöùúûüýÿ"  # LaTeX composes these in every font


def latex_text(rows: list[Row]) -> str:
    """A `table` environment for each dataset, device, thread count and batch size."""
    shown = [c for c in SHOWN if c.rank is not None and c.needed(rows)]
    return "\n".join([r"% \usepackage{booktabs}", *(_table(group, shown) for group in group_rows(rows))]) + "\n"


def latex_escape(text: str) -> str:
    """Text that shows as itself in every LaTeX; characters it has no glyph for appear as their number."""
    return "".join(map(_character, LIGATURE.sub(r"\g<0>\0", clean(text)))).replace("\0", "{}")


def _character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    plain = character.isascii() or character in ACCENTED
    return character if plain else rf"\texttt{{U+{ord(character):04X}}}"


def _figures(text: str) -> str:
    """A cell of numbers: with minus signs, `~` as the sign it stands for, and the interval in small print."""
    number, bracket, interval = text.partition(" [")
    number = latex_escape(number).replace("-", "$-$").replace(r"\textasciitilde{}", r"$\sim$")
    small = latex_escape(bracket.strip() + interval).replace("-", "$-$")
    return number + (rf" {{\tiny {small}}}" if bracket else "")


def _table(group: Group, shown: list[Column]) -> str:
    marks, notes = number_notes(group)
    filled = [c for c in shown if any(map(c.show, group.results))]
    below = [*explain_marks(group), *notes, *describe_failures(group)]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            rf"\caption{{{latex_escape(group.title)}}}",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            *([_tabular(group, filled, marks)] if filled else []),
            *(rf"\par\smallskip {latex_escape(line)}" for line in below),
            r"\end{table}",
        ]
    )


def _heading(column: Column) -> str:
    """In lines below one another, so that figures decide how wide a column is."""
    lines = [latex_escape(line) for line in wrap_heading(column.header or "")]
    side = "l" if column.align == "left" else "r"
    below = r"\\{}".join(lines)  # a bracket there would belong to the line break before it
    return below if len(lines) == 1 else rf"\shortstack[{side}]{{{below}}}"


def _tabular(group: Group, shown: list[Column], marks: list[str]) -> str:
    import pandas as pd

    lines = []
    for result, mark in zip(group.results, marks, strict=True):
        cells = [
            latex_escape(c.show(result)) if c.align == "left" else _figures(c.show(result).removesuffix(" possible"))
            for c in shown
        ]
        cells[[c.key for c in shown].index("variant")] += " " * bool(mark) + latex_escape(mark)
        # A bracket or star there would belong to the command before it.
        lines.append(["{}" * cells[0].startswith(("[", "*")) + cells[0], *cells[1:]])
    heads = pd.Index([_heading(c) for c in shown])
    sides = "".join("l" if c.align == "left" else "r" for c in shown)
    return pd.DataFrame(lines, columns=heads).to_latex(index=False, escape=False, column_format=sides).rstrip()
