"""Tables of an experiment, each as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ersparse.storage.atomic import write_text

Row = Mapping[str, Any]


def write_table(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """<name>.csv with every digit, <name>.md with four. The first row's keys are the columns."""
    columns = list(rows[0]) if rows else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *[[row[column] for column in columns] for row in rows]])
    write_text(folder / f"{name}.csv", text.getvalue())
    lines = [columns, ["---"] * len(columns), *[[shown(row[column]) for column in columns] for row in rows]]
    write_text(folder / f"{name}.md", "".join(f"| {' | '.join(line)} |\n" for line in lines))


def shown(value: Any) -> str:
    """A number with four digits; nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
