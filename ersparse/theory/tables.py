"""Tables of an experiment, written as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ersparse.storage.atomic import write_text

Row = Mapping[str, Any]


def write_table(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Write <name>.csv with all digits and <name>.md with four; the keys of the first row are the columns."""
    columns = list(rows[0]) if rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *[[row[column] for column in columns] for row in rows]])
    write_text(folder / f"{name}.csv", text.getvalue())
    lines = [columns, ["---"] * len(columns), *[[_format(row[column]) for column in columns] for row in rows]]
    write_text(folder / f"{name}.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def _format(value: Any) -> str:
    """Format a number with four significant digits, and None as an empty cell."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
