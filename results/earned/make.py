"""Densities that are earned, on digits: the table and the plot in this folder.

python -m results.earned.make ROOT      from the run folders of the sweep that README.md names: runs.csv, then
python -m results.earned.make           the table and the plot, from runs.csv
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from results.shared import finished, frame, lines, make, spread

HERE = Path(__file__).resolve().parent
NAMES = {  # what a row is called, by sparsity option, in the order of the table
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
COLOURS = {"rule": "#0072B2", "ER": "#D55E00", "full": "#009E73"}


def collect(root: Path) -> pd.DataFrame:
    """A row for each finished run under `root`."""
    rows = []
    for _, record in finished(root, "runs/*/s*"):
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


def shown(cell: pd.DataFrame) -> str:
    """Per cent: mean and sample deviation, and of how many."""
    return "–" if cell.empty else f"{spread(cell['accuracy'])} ({len(cell)})"


def table(runs: pd.DataFrame) -> str:
    """Accuracies by source; then those of masks that are kept, and their controls."""
    drawn, kept = runs[~runs["keep_mask"]], runs[runs["keep_mask"]]
    levels = sorted(drawn["level"].unique())
    rows = []
    for source, name in NAMES.items():
        part = drawn[drawn["source"] == source]
        cells = [shown(part[part["level"] == level]) for level in levels]
        sparsities = part[part["level"] == levels[-1]][["realised", "effective"]].mean()
        rows.append([name, *cells, f"{sparsities['realised']:.4f}", f"{sparsities['effective']:.4f}"])
    head = ["source", *(f"{level:g}" for level in levels), "realised", f"effective, at {levels[-1]:g}"]
    controls = []
    for source in ("snip", "synflow", "imp_multishot"):
        part = kept[kept["source"] == source]
        name = {"imp_multishot": "IMP"}.get(source, NAMES[source].removeprefix("ER-"))
        controls.append([name, *(shown(part[part["control"] == control]) for control in CONTROLS)])
    return lines(head, rows) + "\n" + lines(["mask kept, at 0.995", *CONTROLS.values()], controls)


def plot(runs: pd.DataFrame) -> None:
    """Every seed as a dot, the mean as a bar."""
    drawn = runs[~runs["keep_mask"]]
    levels = sorted(drawn["level"].unique())
    figure, panels = plt.subplots(1, len(levels), figsize=(9, 4.4), sharey=True, layout="constrained")
    for axes, level in zip(panels, levels, strict=True):
        for place, source in enumerate(reversed(NAMES)):
            accuracy = 100 * drawn[(drawn["source"] == source) & (drawn["level"] == level)]["accuracy"]
            kind = "full" if source.startswith("full") else "ER" if NAMES[source].startswith("ER") else "rule"
            axes.plot(accuracy, [place] * len(accuracy), "o", ms=5, alpha=0.45, mew=0, color=COLOURS[kind])
            axes.plot([accuracy.mean()] * 2, [place - 0.3, place + 0.3], color=COLOURS[kind], lw=2)
        axes.grid(axis="x", alpha=0.25)
        frame(axes, xlabel="test accuracy, %", title=f"sparsity {level:g}")
    panels[0].set_yticks(range(len(NAMES)), list(reversed(NAMES.values())))
    figure.savefig(HERE / "earned.png", dpi=130)


if __name__ == "__main__":
    make(HERE, collect, table, plot)
