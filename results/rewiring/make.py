"""Where does rewiring pay? Fixed masks, SET and RigL on digits: the table and plot in this folder.

python results/rewiring/make.py ROOT    reads the runs under ROOT (its command is in README.md), writes runs.csv,
                                        then the table and the plot
python results/rewiring/make.py         the table and the plot, from runs.csv
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

HERE = Path(__file__).resolve().parent
METHODS = {"rigl": ("RigL", "#D55E00"), "rigl, flow kept": ("RigL, flow kept", "#CC79A7"), "set": ("SET", "#0072B2")}
MARKERS = {10: "o", 30: "s", 100: "^"}
CELL = ["sparsity", "method", "delta_t", "drop_fraction"]


def measure(root: Path) -> pd.DataFrame:
    """A row for each finished run under `root`."""
    rows = []
    for path in sorted(root.glob("runs/*/s*/run.json")):
        record = json.loads(path.read_text())
        if record["state"] != "done":
            continue
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
        rows.append(row | rewired(path.parent) | {"hash": record["hash"][:8]})
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


def paired(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell: points above the fixed mask of the same seed, with half of the 95 % t-interval."""
    fixed = runs[runs["method"] == "fixed"].set_index(["sparsity", "seed"])["accuracy"]
    rows = []
    for cell, part in runs[runs["method"] != "fixed"].groupby(CELL):
        gain = 100 * (part.set_index(["sparsity", "seed"])["accuracy"] - fixed).dropna()
        half = stats.t.ppf(0.975, len(gain) - 1) * gain.sem() if len(gain) > 1 else np.nan
        means = part[["accuracy", "rewired", "no_input", "silent", "effective"]].mean()
        rows.append(
            dict(zip(CELL, cell, strict=True)) | {"n": len(gain), "gain": gain.mean(), "half": half} | dict(means)
        )
    return pd.DataFrame(rows)


def table(runs: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Per cent and points; dead channels at the end, of all that are an input of a layer."""
    lines = ["| density | method | ΔT | fraction | n | accuracy | − fixed | rewired | without input | silent |"]
    lines.append("|---" * 10 + "|")
    for sparsity, part in runs[runs["method"] == "fixed"].groupby("sparsity"):
        shown = f"{100 * part['accuracy'].mean():.1f} ± {100 * part['accuracy'].std():.1f}"
        lines.append(f"| {sparsity} | fixed | | | {len(part)} | {shown} | | | | |")
        for _, cell in cells[cells["sparsity"] == sparsity].iterrows():
            low, high = cell["gain"] - cell["half"], cell["gain"] + cell["half"]
            lines.append(
                f"| {sparsity} | {METHODS[cell['method']][0]} | {cell['delta_t']:g} | {cell['drop_fraction']:g} | "
                f"{cell['n']} | {100 * cell['accuracy']:.1f} | {cell['gain']:+.1f} ({low:+.1f} to {high:+.1f}) | "
                f"{cell['rewired']:.2f} | {cell['no_input']:.0f} | {cell['silent']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def plot(cells: pd.DataFrame) -> None:
    """Points over the fixed mask, over how much was rewired and over the channels that lost every input."""
    figure, grid = plt.subplots(2, 2, figsize=(9, 7), sharey=True, sharex="col", layout="constrained")
    for row, (sparsity, part) in zip(grid, cells.groupby("sparsity"), strict=True):
        for axes, key in zip(row, ("rewired", "no_input"), strict=True):
            axes.axhline(0, color="0.5", lw=0.8)
            for (method, delta_t), points in part.groupby(["method", "delta_t"]):
                axes.errorbar(
                    points[key], points["gain"], points["half"], fmt=MARKERS[delta_t], ms=6, capsize=2, lw=0.8,
                    color=METHODS[method][1], alpha=0.85,
                )  # fmt: skip
            axes.spines[["top", "right"]].set_visible(False)
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
        cells = paired(runs)
        text = table(runs, cells)
        (HERE / f"{name}.md").write_text(text)
        print(text)
        if name == "digits":
            plot(cells)


if __name__ == "__main__":
    main()
