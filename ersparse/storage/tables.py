"""Tables as Markdown, CSV and LaTeX: the one table writer of reports, theory experiments and result scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]  # column key -> value; None and a missing key both mean that there is no value
MISSING = "–"
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "→": r"$\rightarrow$", "–": "--",
    "−": "$-$", "<": "$<$", ">": "$>$", "×": r"$\times$",
}  # fmt: skip


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], right_aligned: Sequence[bool] = ()) -> str:
    """Return a Markdown table that ends with a newline; a `|` inside a cell is escaped.

    Args:
        head: column headings.
        rows: formatted cells.
        right_aligned: one flag per column; columns without a flag are left-aligned.
    """
    flags = [*right_aligned, *[False] * (len(head) - len(right_aligned))]
    lines = [
        _markdown_line(head),
        _markdown_line("---:" if flag else "---" for flag in flags),
        *(_markdown_line(cell.replace("|", r"\|") for cell in row) for row in rows),
    ]
    return "\n".join(lines) + "\n"


def csv_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a CSV table with every digit of its numbers; None becomes an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    return text.getvalue()


def latex_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], right_aligned: Sequence[bool]) -> str:
    r"""Return a LaTeX `table` with booktabs rules; the document needs `\usepackage{booktabs}`."""
    align = "".join("r" if flag else "l" for flag in right_aligned)
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{_tex(title)}}}", rf"\begin{{tabular}}{{{align}}}",
        r"\toprule", _tex_line(head), r"\midrule", *map(_tex_line, rows), r"\bottomrule", r"\end{tabular}",
        r"\end{table}",
    ]) + "\n"  # fmt: skip


def plain(value: Any) -> str:
    """Format a float with six significant digits, anything else by `str`."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def decimals(digits: int, signed: bool = False) -> Callable[[Any], str]:
    """Return a formatter with a fixed number of decimals, a true minus sign, and no negative zero."""

    def show(value: Any) -> str:
        text = f"{value:{'+' if signed else ''}.{digits}f}"
        return "0" + text[2:] if text.strip("-+0.") == "" and text[0] == "-" else text.replace("-", "−")

    return show


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: name of the column in CSV files, and of its values in the rows.
        head: name of the column in Markdown, LaTeX and HTML.
        show: formats a value for Markdown, LaTeX and HTML.
        number: whether the column is right-aligned.
    """

    key: str
    head: str
    show: Callable[[Any], str] = plain
    number: bool = True


@dataclass(frozen=True)
class Table:
    """A titled table with typed columns; `notes` are printed below it in Markdown and HTML."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)

    def cells(self) -> list[list[str]]:
        """Return the formatted cells, row by row; a missing value is shown as `MISSING`."""
        return [[MISSING if row.get(c.key) is None else c.show(row[c.key]) for c in self.columns] for row in self.rows]

    def markdown(self) -> str:
        """Return a heading of level 3, the table, and its notes."""
        table = markdown_table(self._head(), self.cells(), self._right_aligned())
        return f"### {self.title}\n\n{table}" + "".join(f"\n{note}\n" for note in self.notes)

    def csv(self) -> str:
        """Return the table as CSV, with column keys and unformatted values."""
        keys = [column.key for column in self.columns]
        return csv_table(keys, ([row.get(key) for key in keys] for row in self.rows))

    def latex(self) -> str:
        """Return the table as LaTeX; the document needs booktabs."""
        return latex_table(self.title, self._head(), self.cells(), self._right_aligned())

    def _head(self) -> list[str]:
        return [column.head for column in self.columns]

    def _right_aligned(self) -> list[bool]:
        return [column.number for column in self.columns]


def _markdown_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _tex_line(cells: Iterable[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text: str) -> str:
    return "".join(TEX.get(letter, letter) for letter in text)
