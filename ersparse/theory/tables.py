"""Tables of an experiment, written as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ersparse.storage.atomic import write_text
from ersparse.storage.tables import csv_table, markdown_table


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write <name>.csv with all digits and <name>.md with four; the keys of the first row are the columns."""
    columns = list(rows[0]) if rows else []
    cells = [[row[column] for column in columns] for row in rows]
    write_text(folder / f"{name}.csv", csv_table(columns, cells))
    write_text(folder / f"{name}.md", markdown_table(columns, [[_format(value) for value in row] for row in cells]))


def _format(value: Any) -> str:
    """Format a number with four significant digits, and None as an empty cell."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
