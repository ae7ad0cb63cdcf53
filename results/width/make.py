"""Does wider and sparser win at equal numbers of weights? The table and plot in this folder.

python results/width/make.py ROOT    reads the runs of experiment=width under ROOT, writes runs.csv, then both
python results/width/make.py         both, from runs.csv
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
COLOURS = {"erk": "#009E73", "balanced": "#0072B2"}


def measure(root: Path) -> pd.DataFrame:
    """A row for each finished run."""
    rows = []
    for path in sorted(root.glob("width/*/s*/run.json")):
        record = json.loads(path.read_text())
        if record["state"] == "done":
            rows.append(
                {
                    "sparsity": record["config"]["sparsity"]["name"],
                    "width": record["config"]["model"]["width"],
                    "seed": record["seed"],
                    "weights": sum(layer["nonzero"] for layer in record["layers"]),
                    "realised": record["sparsity"]["realised"],
                    "effective": record["sparsity"]["effective"],
                    "accuracy": record["metrics"]["test/acc"],
                    "hash": record["hash"][:8],
                }
            )
    return pd.DataFrame(rows).sort_values(["sparsity", "width", "seed"])


def interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean, and the ends of the 95 % t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.sem() if len(values) > 1 else np.nan
    return values.mean(), values.mean() - half, values.mean() + half


def table(runs: pd.DataFrame) -> str:
    dense = runs[runs["sparsity"] == "dense"].set_index("seed")["accuracy"]
    lines = ["| density | width | sparsity | weights | n | accuracy | − narrow dense |\n|---|---|---|---|---|---|---|"]
    for (sparsity, width), cell in runs.groupby(["sparsity", "width"]):
        weights = ", ".join(f"{count:,}".replace(",", " ") for count in sorted(cell["weights"].unique()))
        gain = 100 * (cell.set_index("seed")["accuracy"] - dense).dropna()
        shown = "" if sparsity == "dense" else "{:+.1f} ({:+.1f} to {:+.1f})".format(*interval(gain))
        lines.append(
            f"| {sparsity} | {width:g} | {cell['realised'].mean():.4f} | {weights} | {len(cell)} | "
            f"{100 * cell['accuracy'].mean():.1f} ± {100 * cell['accuracy'].std():.1f} | {shown} |"
        )
    return "\n".join(lines) + "\n"


def plot(runs: pd.DataFrame) -> None:
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    mean, low, high = interval(100 * runs.loc[runs["sparsity"] == "dense", "accuracy"])
    narrow = runs.loc[runs["sparsity"] == "dense", "width"].iloc[0]
    axes.axhspan(low, high, color="0.9")
    axes.axhline(mean, color="0.4", lw=1, label=f"dense, width {narrow:g}")
    for place, (sparsity, colour) in enumerate(COLOURS.items()):
        cells = runs[runs["sparsity"] == sparsity].groupby("width")["accuracy"]
        found = np.array([interval(100 * values) for _, values in cells])
        widths = np.array(list(cells.groups)) * (1 + 0.04 * (place - 0.5))  # so that bars do not hide each other
        errors = np.abs(found[:, 1:] - found[:, :1]).T
        axes.errorbar(
            widths, found[:, 0], errors, color=colour, marker="o", ms=5, capsize=3, label=f"{sparsity}, sparse"
        )
    axes.set_xscale("log", base=2)
    ticks = sorted(runs.loc[runs["sparsity"] != "dense", "width"].unique())
    sparsities = runs[runs["sparsity"] == "erk"].groupby("width")["realised"].mean()
    axes.set_xticks(ticks, [f"{width:g}\n({sparsities[width]:.3g})" for width in ticks])
    axes.set(xlabel="width (sparsity)", ylabel="test accuracy, %")
    axes.set_title(f"About {round(runs['weights'].mean(), -2):.0f} weights each: resnet20 on digits", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(HERE / "width.png", dpi=140)


def main() -> None:
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1])).to_csv(HERE / "runs.csv", index=False)
    runs = pd.read_csv(HERE / "runs.csv")
    text = table(runs)
    (HERE / "table.md").write_text(text)
    print(text)
    plot(runs)


if __name__ == "__main__":
    main()
