"""Rows grouped into lines of a figure over sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.lines import Line2D

from ersparse.report.analysis.labels import rounded
from ersparse.report.figures.style import MANY, look, ring
from ersparse.storage.tables import Row


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
        style: keyword arguments of `Axes.plot`.
        density: the density of each row.
        rows: from dense to sparse.
    """

    label: str
    style: dict[str, Any]
    density: list[float]
    rows: list[Row]


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """Return one line per label; if source and final sparsity both vary, one per label and source sparsity."""
    key = sparsity_key(rows)
    pairs = len({row["level"] for row in rows if row["level"] != row["final"]}) > 1 and key == "final"
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        variant = row["label"].removeprefix(row["sparsity"]) + (f", from {rounded(row['level'])}" if pairs else "")
        found.setdefault((row["sparsity"], variant), []).append(row)
    variants = list(dict.fromkeys(variant for _, variant in found))
    return [
        Line(
            sparsity + variant,
            look(sparsity, variants.index(variant)) | {"label": sparsity + variant},
            [1 - row[key] for row in sorted(members, key=lambda row: row[key])],
            sorted(members, key=lambda row: row[key]),
        )
        for (sparsity, variant), members in found.items()
    ]


def sparsity_key(rows: Sequence[Row]) -> str:
    """Return which sparsity the axis shows: "final", or "level" if the final sparsity does not vary."""
    return "final" if len({row["final"] for row in rows}) > 1 else "level"


def crowded(rows: Sequence[Row]) -> bool:
    """Return whether there are too many lines to tell apart, or only lines of a single point."""
    count = len({row["label"] for row in rows})
    return count > MANY or count == len(rows)


def paper_legend(rows: Sequence[Row]) -> list[Line2D]:
    """Return the legend entry of the paper's numbers if a row has one."""
    return [ring("the paper")] if any(row["printed"] is not None for row in rows) else []
