"""Functions shared by the `make.py` scripts in this folder: they turn finished runs into a CSV, a table and a plot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes

from ersparse.report.analysis.stats import summary
from ersparse.storage.run_json import load

matplotlib.use("Agg")


def make(
    here: Path,
    measure: Callable[[Path], pd.DataFrame],
    table: Callable[[pd.DataFrame], str],
    plot: Callable[[pd.DataFrame], None],
) -> None:
    """Write table.md and the plot from runs.csv, after writing runs.csv if the command line names a folder of runs.

    Args:
        here: folder of runs.csv and table.md.
        measure: returns one row for each finished run below a folder.
        table: returns the table in Markdown.
        plot: writes the plot.
    """
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    runs = load_runs(here / "runs.csv", root, measure)
    write_table(here / "table.md", table(runs))
    plot(runs)


def load_runs(path: Path, root: Path | None, measure: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Return the runs of a CSV file, after writing the file from the run folders below `root` if `root` is given."""
    if root is not None:
        measure(root).to_csv(path, index=False)
    return pd.read_csv(path)


def write_table(path: Path, table: str) -> None:
    """Write a table to a file and to the standard output."""
    path.write_text(table, encoding="utf-8")
    print(table)


def finished_runs(root: Path, pattern: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder and the run.json of every finished run whose folder matches `pattern` below `root`."""
    for path in sorted(root.glob(f"{pattern}/run.json")):
        record = load(path.parent)
        if record["state"] == "done":
            yield path.parent, record


def mean_and_deviation(values: pd.Series) -> str:
    """Format fractions in per cent: the mean and, for two or more values, the sample standard deviation."""
    found = summary(list(100 * values))
    return f"{found.mean:.1f}" + ("" if found.sd is None else f" ± {found.sd:.1f}")


def mean_and_interval(values: pd.Series, form: str = ".1f") -> str:
    """Format the mean and its 95 % t-interval as "1.2 (0.3 to 2.1)"; `form` is the format of each number."""
    found = summary(list(values))
    ends = "" if found.low is None else f" ({found.low:{form}} to {found.high:{form}})"
    return f"{found.mean:{form}}{ends}"


def format_axes(axes: Axes, **settings: Any) -> None:
    """Set properties of the axes and hide the top and the right spine."""
    axes.set(**settings)
    axes.spines[["top", "right"]].set_visible(False)
