"""What the scripts of this folder share: finished runs become rows of a CSV, of which tables and pictures are made."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes

from ersparse.report.analysis.stats import summary

matplotlib.use("Agg")


def make(
    here: Path,
    measure: Callable[[Path], pd.DataFrame],
    table: Callable[[pd.DataFrame], str],
    plot: Callable[[pd.DataFrame], None],
) -> None:
    """runs.csv, if the command line names a folder of runs; then table.md and the picture, from runs.csv."""
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1])).to_csv(here / "runs.csv", index=False)
    runs = pd.read_csv(here / "runs.csv")
    (here / "table.md").write_text(table(runs))
    print(table(runs))
    plot(runs)


def finished(root: Path, folders: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and run.json of every finished run; `folders` is a pattern below `root`."""
    for path in sorted(root.glob(f"{folders}/run.json")):
        record = json.loads(path.read_text())
        if record["state"] == "done":
            yield path.parent, record


def spread(values: pd.Series) -> str:
    """Per cent, to one decimal: mean, and sample deviation where there are two or more."""
    found = summary(list(100 * values))
    return f"{found.mean:.1f}" + ("" if found.sd is None else f" ± {found.sd:.1f}")


def interval(values: pd.Series, form: str = ".1f") -> str:
    """Mean, and the ends of its 95 % t-interval: "1.2 (0.3 to 2.1)"; `form` as in f-strings."""
    found = summary(list(values))
    ends = "" if found.low is None else f" ({found.low:{form}} to {found.high:{form}})"
    return f"{found.mean:{form}}{ends}"


def lines(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def frame(axes: Axes, **settings: Any) -> None:
    """Two sides are enough."""
    axes.set(**settings)
    axes.spines[["top", "right"]].set_visible(False)
