"""Table and plot of pruner-derived layer densities on digits (ER-SNIP, ER-GraSP, ER-SynFlow, ER-IMP).

`python -m results.pruner_densities.make ROOT` writes runs.csv from the run folders below ROOT (see README.md),
and then the table and the plot; without ROOT it writes the table and the plot from runs.csv.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ersparse.storage.tables import markdown_table
from results.shared import finished_runs, format_axes, make, mean_and_deviation

HERE = Path(__file__).resolve().parent
NAMES = {  # row labels by sparsity option, in the order of the table
    "uniform": "uniform", "erk": "erk", "balanced": "balanced", "pyramidal": "pyramidal", "snip": "ER-SNIP",
    "grasp": "ER-GraSP", "synflow": "ER-SynFlow (Tanaka)", "synflow_multishot": "ER-SynFlow (multi-shot)",
    "imp_multishot": "ER-IMP", "full_synflow": "SynFlow, multi-shot", "full_imp": "IMP",
}  # fmt: skip
CONTROLS = {
    "none": "its own mask",
    "shuffle": "shuffled in layers",
    "reinit": "other weights",
    "invert": "scores inverted",
}
COLORS = {"rule": "#0072B2", "ER": "#D55E00", "full": "#009E73"}


def measure(root: Path) -> pd.DataFrame:
    """Return a row for each finished run below `root`."""
    rows = []
    for _, record in finished_runs(root, "runs/*/s*"):
        config, method = record["config"], record["config"]["method"]["name"]
        fixed, sparsity = method == "fixed", config["sparsity"]
        rows.append(
            {
                "source": sparsity["name"] if fixed else f"full_{method}",
                "level": sparsity["level"] if fixed else config["method"]["final_sparsity"],
                "keep_mask": fixed and sparsity["keep_mask"],
                "control": sparsity["control"] if fixed else "none",
                "seed": record["seed"],
                "realised": record["sparsity"]["realised"],
                "effective": record["sparsity"]["effective"],
                "empty": sum(layer["nonzero"] == 0 for layer in record["layers"]),
                "accuracy": record["metrics"]["test/acc"],
                "hash": record["hash"][:8],
            }
        )
    return pd.DataFrame(rows).sort_values(["keep_mask", "source", "level", "control", "seed"])


def accuracy_and_count(cell: pd.DataFrame) -> str:
    """Format the mean accuracy in per cent, its sample standard deviation and the number of seeds."""
    return "–" if cell.empty else f"{mean_and_deviation(cell['accuracy'])} ({len(cell)})"


def table(runs: pd.DataFrame) -> str:
    """Return the accuracies by source, and those of kept masks and their controls."""
    drawn, kept = runs[~runs["keep_mask"]], runs[runs["keep_mask"]]
    levels = sorted(drawn["level"].unique())
    rows = []
    for source, name in NAMES.items():
        part = drawn[drawn["source"] == source]
        cells = [accuracy_and_count(part[part["level"] == level]) for level in levels]
        sparsities = part[part["level"] == levels[-1]][["realised", "effective"]].mean()
        rows.append([name, *cells, f"{sparsities['realised']:.4f}", f"{sparsities['effective']:.4f}"])
    head = ["source", *(f"{level:g}" for level in levels), "realised", f"effective, at {levels[-1]:g}"]
    controls = []
    for source in ("snip", "synflow", "imp_multishot"):
        part = kept[kept["source"] == source]
        name = {"imp_multishot": "IMP"}.get(source, NAMES[source].removeprefix("ER-"))
        controls.append([name, *(accuracy_and_count(part[part["control"] == control]) for control in CONTROLS)])
    return markdown_table(head, rows) + "\n" + markdown_table(["mask kept, at 0.995", *CONTROLS.values()], controls)


def plot(runs: pd.DataFrame) -> None:
    """Plot each seed as a dot and the mean as a bar."""
    drawn = runs[~runs["keep_mask"]]
    levels = sorted(drawn["level"].unique())
    figure, panels = plt.subplots(1, len(levels), figsize=(9, 4.4), sharey=True, layout="constrained")
    for axes, level in zip(panels, levels, strict=True):
        for y, source in enumerate(reversed(NAMES)):
            accuracy = 100 * drawn[(drawn["source"] == source) & (drawn["level"] == level)]["accuracy"]
            kind = "full" if source.startswith("full") else "ER" if NAMES[source].startswith("ER") else "rule"
            axes.plot(accuracy, [y] * len(accuracy), "o", ms=5, alpha=0.45, mew=0, color=COLORS[kind])
            axes.plot([accuracy.mean()] * 2, [y - 0.3, y + 0.3], color=COLORS[kind], lw=2)
        axes.grid(axis="x", alpha=0.25)
        format_axes(axes, xlabel="test accuracy, %", title=f"sparsity {level:g}")
    panels[0].set_yticks(range(len(NAMES)), list(reversed(NAMES.values())))
    figure.savefig(HERE / "pruner_densities.png", dpi=130)


if __name__ == "__main__":
    make(HERE, measure, table, plot)
