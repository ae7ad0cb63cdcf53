"""Tables and plot that compare SET and RigL to fixed masks, on digits and CIFAR-10.

python -m results.rewiring.make DIGITS CIFAR10    write digits.csv and cifar10.csv from the run folders below both
                                                  (README.md has the commands), then the tables and the plot
python -m results.rewiring.make                   write the tables and the plot from both CSV files
"""

from __future__ import annotations

import sys
from itertools import zip_longest
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ersparse.report.analysis.stats import summary
from ersparse.storage.tables import markdown_table
from results.shared import (
    finished_runs,
    format_axes,
    load_runs,
    mean_and_deviation,
    mean_and_interval,
    write_table,
)

HERE = Path(__file__).resolve().parent
METHODS = {"rigl": ("RigL", "#D55E00"), "rigl, flow kept": ("RigL, flow kept", "#CC79A7"), "set": ("SET", "#0072B2")}
MARKERS = {10: "o", 30: "s", 100: "^"}
CELL = ["sparsity", "method", "delta_t", "drop_fraction"]


def measure(root: Path) -> pd.DataFrame:
    """Return a row for each finished run below `root`."""
    rows = []
    for folder, record in finished_runs(root, "runs/*/s*"):
        method = record["config"]["method"]
        row = {
            "sparsity": record["config"]["sparsity"]["name"],
            "method": method["name"] + (", flow kept" if method.get("keep_flow") else ""),
            "delta_t": method.get("delta_t"),
            "drop_fraction": method.get("drop_fraction"),
            "seed": record["seed"],
            "accuracy": record["metrics"]["test/acc"],
            "realised": record["sparsity"]["realised"],
            "effective": record["sparsity"]["effective"],
        }
        rows.append(row | rewiring_totals(folder) | {"hash": record["hash"][:8]})
    return pd.DataFrame(rows).sort_values([*CELL, "seed"])


def rewiring_totals(folder: Path) -> dict:
    """Return the totals over all updates of a run; empty if its mask was fixed."""
    path = folder / "rewiring.csv"
    if not path.exists():
        return {}
    updates = pd.read_csv(path)
    last = pd.read_csv(folder / "metrics.csv").iloc[-1]
    weights = updates.loc[updates["step"] == 0, "nonzero"].sum()
    assert (updates.groupby("layer")["nonzero"].nunique() == 1).all()  # every update keeps the number of weights
    return {
        "rewired": updates["grown"].sum() / weights,
        "explored": last["rewire/explored"],
        "no_input": last["rewire/no_input"],
        "silent": last["rewire/silent"],
    }


def gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rewiring runs with their gain over the fixed mask of the same seed, in percentage points."""
    fixed = runs[runs["method"] == "fixed"].set_index(["sparsity", "seed"])["accuracy"]
    rest = runs[runs["method"] != "fixed"].join(fixed, on=["sparsity", "seed"], rsuffix="_fixed")
    return rest.assign(gain=100 * (rest["accuracy"] - rest["accuracy_fixed"])).dropna(subset="gain")


def table(runs: pd.DataFrame) -> str:
    """Return accuracies in per cent, gains in percentage points, and the dead input channels at the end of the run."""
    rows, rewiring = [], gains(runs)
    for sparsity, part in runs[runs["method"] == "fixed"].groupby("sparsity"):
        rows.append([sparsity, "fixed", "", "", str(len(part)), mean_and_deviation(part["accuracy"]), "", "", "", ""])
        for (method, delta_t, fraction), cell in rewiring[rewiring["sparsity"] == sparsity].groupby(CELL[1:]):
            first_columns = [sparsity, METHODS[method][0], f"{delta_t:g}", f"{fraction:g}", str(len(cell))]
            means = cell[["accuracy", "rewired", "no_input", "silent"]].mean()
            last = [f"{means['rewired']:.2f}", f"{means['no_input']:.0f}", f"{means['silent']:.0f}"]
            rows.append(
                [*first_columns, f"{100 * means['accuracy']:.1f}", mean_and_interval(cell["gain"], "+.1f"), *last]
            )
    head = ["density", "method", "ΔT", "fraction", "n", "accuracy", "− fixed", "rewired", "without input", "silent"]
    return markdown_table(head, rows)


def plot(runs: pd.DataFrame) -> None:
    """Plot the gain over the fixed mask against the rewired weights and against the channels without input."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 7), sharey=True, sharex="col", layout="constrained")
    for row, (sparsity, part) in zip(grid, gains(runs).groupby("sparsity"), strict=True):
        for axes, key in zip(row, ("rewired", "no_input"), strict=True):
            axes.axhline(0, color="0.5", lw=0.8)
            for (method, delta_t, _), cell in part.groupby(CELL[1:]):
                found = summary(list(cell["gain"]))
                axes.errorbar(
                    cell[key].mean(), found.mean, None if found.high is None else found.high - found.mean,
                    fmt=MARKERS[delta_t], ms=6, capsize=2, lw=0.8, color=METHODS[method][1], alpha=0.85,
                )  # fmt: skip
            format_axes(axes)
        row[0].set(ylabel=f"{sparsity}: points over the fixed mask", xscale="log")
        row[0].xaxis.set_major_formatter("{x:g}")
    grid[0][0].set_ylim(-48, 28)  # wider intervals, of two seeds, are cut off
    grid[1][0].set_xlabel("weights rewired in the whole run / weights there are")
    grid[1][1].set_xlabel("channels without input at the end")
    handles = [plt.Line2D([], [], marker="o", ls="", color=color, label=name) for name, color in METHODS.values()]
    handles += [plt.Line2D([], [], marker=m, ls="", color="0.4", label=f"ΔT = {t}") for t, m in MARKERS.items()]
    figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside lower center", ncols=6)
    figure.suptitle("Rewiring against a fixed mask: resnet20, digits, sparsity 0.996", fontsize=12)
    figure.savefig(HERE / "rewiring.png", dpi=130)


def main() -> None:
    """Write the tables of both data sets and the plot of digits."""
    roots = [Path(root) for root in sys.argv[1:]]
    for name, root in zip_longest(("digits", "cifar10"), roots[:2]):
        runs = load_runs(HERE / f"{name}.csv", root, measure)
        write_table(HERE / f"{name}.md", table(runs))
        if name == "digits":
            plot(runs)


if __name__ == "__main__":
    main()
