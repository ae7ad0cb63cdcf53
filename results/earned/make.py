"""Densities that are earned, on digits: the table and the plot in this folder.

python results/earned/make.py ROOT      from the run folders of the sweep that README.md names: runs.csv, then
python results/earned/make.py           the table and the plot, from runs.csv
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

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
    for path in sorted(root.glob("runs/*/s*/run.json")):
        record = json.loads(path.read_text())
        if record["state"] != "done":
            continue
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
    if cell.empty:
        return "–"
    accuracy = 100 * cell["accuracy"]
    spread = f" ± {accuracy.std():.1f}" if len(cell) > 1 else ""
    return f"{accuracy.mean():.1f}{spread} ({len(cell)})"


def table(runs: pd.DataFrame) -> str:
    """Accuracies by source; then those of masks that are kept, and their controls."""
    drawn, kept = runs[~runs["keep_mask"]], runs[runs["keep_mask"]]
    levels = sorted(drawn["level"].unique())
    lines = [
        "| source | " + " | ".join(f"{level:g}" for level in levels) + f" | realised | effective, at {levels[-1]:g} |"
    ]
    lines.append("|---" * (len(levels) + 3) + "|")
    for source, name in NAMES.items():
        part = drawn[drawn["source"] == source]
        cells = [shown(part[part["level"] == level]) for level in levels]
        sparsities = part[part["level"] == levels[-1]][["realised", "effective"]].mean()
        lines.append(f"| {name} | {' | '.join(cells)} | {sparsities['realised']:.4f} | {sparsities['effective']:.4f} |")
    if kept.empty:
        return "\n".join(lines) + "\n"
    lines += ["", "| mask kept, at 0.995 | " + " | ".join(CONTROLS.values()) + " |", "|---" * 5 + "|"]
    for source in ("snip", "synflow", "imp_multishot"):
        part = kept[kept["source"] == source]
        name = {"imp_multishot": "IMP"}.get(source, NAMES[source].removeprefix("ER-"))
        lines.append(f"| {name} | " + " | ".join(shown(part[part["control"] == c]) for c in CONTROLS) + " |")
    return "\n".join(lines) + "\n"


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
        axes.set(xlabel="test accuracy, %", title=f"sparsity {level:g}")
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(NAMES)), list(reversed(NAMES.values())))
    figure.savefig(HERE / "earned.png", dpi=130)


def main() -> None:
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1])).to_csv(HERE / "runs.csv", index=False)
    runs = pd.read_csv(HERE / "runs.csv")
    (HERE / "table.md").write_text(table(runs))
    print(table(runs))
    plot(runs)


if __name__ == "__main__":
    main()
