"""Where does rewiring pay? Fixed masks, SET and RigL on digits: the table and plot in this folder.

python -m results.rewiring.make DIGITS CIFAR10    reads the runs under both (their commands are in README.md), writes
                                                  digits.csv and cifar10.csv, then the tables and the plot
python -m results.rewiring.make                   the tables and the plot, from both files
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ersparse.report.analysis.stats import summary
from results.shared import finished, frame, interval, lines, spread

HERE = Path(__file__).resolve().parent
METHODS = {"rigl": ("RigL", "#D55E00"), "rigl, flow kept": ("RigL, flow kept", "#CC79A7"), "set": ("SET", "#0072B2")}
MARKERS = {10: "o", 30: "s", 100: "^"}
CELL = ["sparsity", "method", "delta_t", "drop_fraction"]


def measure(root: Path) -> pd.DataFrame:
    """A row for each finished run under `root`."""
    rows = []
    for folder, record in finished(root, "runs/*/s*"):
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
        rows.append(row | rewired(folder) | {"hash": record["hash"][:8]})
    return pd.DataFrame(rows).sort_values([*CELL, "seed"])


def rewired(folder: Path) -> dict:
    """What the run's updates came to; empty where the mask was fixed."""
    path = folder / "rewiring.csv"
    if not path.exists():
        return {}
    updates = pd.read_csv(path)
    last = pd.read_csv(folder / "metrics.csv").iloc[-1]
    weights = updates.loc[updates["step"] == 0, "nonzero"].sum()
    assert (updates.groupby("layer")["nonzero"].nunique() == 1).all()  # the same number at every update
    return {
        "rewired": updates["grown"].sum() / weights,
        "explored": last["rewire/explored"],
        "no_input": last["rewire/no_input"],
        "silent": last["rewire/silent"],
    }


def gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Each run that rewires, with the points by which it is above the fixed mask of the same seed."""
    fixed = runs[runs["method"] == "fixed"].set_index(["sparsity", "seed"])["accuracy"]
    rest = runs[runs["method"] != "fixed"].join(fixed, on=["sparsity", "seed"], rsuffix="_fixed")
    return rest.assign(gain=100 * (rest["accuracy"] - rest["accuracy_fixed"])).dropna(subset="gain")


def table(runs: pd.DataFrame) -> str:
    """Per cent and points; dead channels at the end, of all that are an input of a layer."""
    rows, above = [], gains(runs)
    for sparsity, part in runs[runs["method"] == "fixed"].groupby("sparsity"):
        rows.append([sparsity, "fixed", "", "", str(len(part)), spread(part["accuracy"]), "", "", "", ""])
        for (method, delta_t, fraction), cell in above[above["sparsity"] == sparsity].groupby(CELL[1:]):
            what = [sparsity, METHODS[method][0], f"{delta_t:g}", f"{fraction:g}", str(len(cell))]
            means = cell[["accuracy", "rewired", "no_input", "silent"]].mean()
            last = [f"{means['rewired']:.2f}", f"{means['no_input']:.0f}", f"{means['silent']:.0f}"]
            rows.append([*what, f"{100 * means['accuracy']:.1f}", interval(cell["gain"], "+.1f"), *last])
    head = ["density", "method", "ΔT", "fraction", "n", "accuracy", "− fixed", "rewired", "without input", "silent"]
    return lines(head, rows)


def plot(runs: pd.DataFrame) -> None:
    """Points over the fixed mask, over how much was rewired and over the channels that lost every input."""
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
            frame(axes)
        row[0].set(ylabel=f"{sparsity}: points over the fixed mask", xscale="log")
        row[0].xaxis.set_major_formatter("{x:g}")
    grid[0][0].set_ylim(-48, 28)  # intervals of two seeds go on
    grid[1][0].set_xlabel("weights rewired in the whole run / weights there are")
    grid[1][1].set_xlabel("channels without input at the end")
    handles = [plt.Line2D([], [], marker="o", ls="", color=colour, label=name) for name, colour in METHODS.values()]
    handles += [plt.Line2D([], [], marker=m, ls="", color="0.4", label=f"ΔT = {t}") for t, m in MARKERS.items()]
    figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside lower center", ncols=6)
    figure.suptitle("Rewiring against a fixed mask: resnet20, digits, sparsity 0.996", fontsize=12)
    figure.savefig(HERE / "rewiring.png", dpi=130)


def main() -> None:
    for name, root in zip(("digits", "cifar10"), sys.argv[1:], strict=False):
        measure(Path(root)).to_csv(HERE / f"{name}.csv", index=False)
    for name in ("digits", "cifar10"):
        runs = pd.read_csv(HERE / f"{name}.csv")
        (HERE / f"{name}.md").write_text(table(runs))
        print(table(runs))
        if name == "digits":
            plot(runs)


if __name__ == "__main__":
    main()
