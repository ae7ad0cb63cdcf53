"""One table in three tongues: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]  # column's key -> value; None, or no such key, is a value that there is not
NOTHING = "–"
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\rightarrow$", "–": "--",
    "−": "$-$", "<": "$<$", ">": "$>$", "×": r"$\times$",
}  # fmt: skip


def plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def decimals(digits: int, signed: bool = False) -> Callable[[Any], str]:
    """Numbers with so many decimals, and a true minus."""

    def show(value: Any) -> str:
        text = f"{value:{'+' if signed else ''}.{digits}f}"
        return "0" + text[2:] if text.strip("-+0.") == "" and text[0] == "-" else text.replace("-", "−")

    return show


@dataclass(frozen=True)
class Column:
    """What a column is called in CSV, in print, and how its values look there."""

    key: str
    head: str
    show: Callable[[Any], str] = plain
    number: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of values."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)

    def cells(self) -> list[list[str]]:
        """As shown."""
        return [[NOTHING if row.get(c.key) is None else c.show(row[c.key]) for c in self.columns] for row in self.rows]

    def markdown(self) -> str:
        rows = [[cell.replace("|", r"\|") for cell in row] for row in self.cells()]
        lines = [
            f"### {self.title}\n",
            _line(column.head for column in self.columns),
            _line("---:" if column.number else "---" for column in self.columns),
            *map(_line, rows),
        ]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes)]) + "\n"

    def csv(self) -> str:
        """Values in full."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(column.key for column in self.columns)
        writer.writerows(
            ["" if row.get(column.key) is None else row[column.key] for column in self.columns] for row in self.rows
        )
        return text.getvalue()

    def latex(self) -> str:
        """A table of booktabs; needs \\usepackage{booktabs}."""
        align = "".join("r" if column.number else "l" for column in self.columns)
        body = [" & ".join(map(_tex, row)) + r" \\" for row in self.cells()]
        head = " & ".join(_tex(column.head) for column in self.columns) + r" \\"
        return "\n".join([
            r"\begin{table}", r"\centering", rf"\caption{{{_tex(self.title)}}}", rf"\begin{{tabular}}{{{align}}}",
            r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]) + "\n"  # fmt: skip


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _tex(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in text)
