"""The comparison table for a paper: it needs `\\usepackage{booktabs}` and nothing else, and `\\input{table}`."""

import re

from reports.row import Row
from reports.table import SHOWN, Column, conditions, footnotes, groups
from reports.text import clean

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}  # fmt: skip
# Together they would become a dash, a quotation mark, or a mark of another language.
LIGATURE = re.compile(r"([-'`,])(?=\1)|[?!](?=`)")
ACCENTED = "ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöùúûüýÿ"  # LaTeX composes these in every font


def latex_text(rows: list[Row]) -> str:
    """A `table` environment for each dataset, device, thread count and batch size."""
    shown = [c for c in SHOWN if c.rank is not None and c.needed(rows)]
    return "\n".join([r"% \usepackage{booktabs}", *(_table(group, shown) for group in groups(rows))]) + "\n"


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


def _table(group: list[Row], shown: list[Column]) -> str:
    marks, notes = footnotes(group)
    filled = [c for c in shown if any(c.show(row) for row in group)]
    lines = []
    for row, mark in zip(group, marks, strict=True):
        cells = [latex_escape(c.show(row)) if c.align == "left" else _figures(c.show(row)) for c in filled]
        cells = [f"{cell}{mark}" if c.key == "variant" else cell for cell, c in zip(cells, filled, strict=True)]
        # A bracket or star there would belong to the command before it.
        lines.append("{}" * cells[0].startswith(("[", "*")) + " & ".join(cells) + r" \\")
    below = [rf"  \par\smallskip {latex_escape(f'[{n}] {note}')}" for n, note in enumerate(notes, 1)]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            rf"  \caption{{{latex_escape(conditions(group[0]))}}}",
            r"  \centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"  \begin{{tabular}}{{{''.join('l' if c.align == 'left' else 'r' for c in filled)}}}",
            r"    \toprule",
            "    " + " & ".join(latex_escape(c.header or "") for c in filled) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            *below,
            r"\end{table}",
        ]
    )
