"""Table 1 with and without what the released code does: the table and plot in this folder.

python -m results.released_code.make ROOT    reads the runs of experiment=table1 under ROOT, writes runs.csv, then both
python -m results.released_code.make         both, from runs.csv
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ersparse.report.paper import Cell, printed
from results.shared import finished, frame, lines, make, spread

HERE = Path(__file__).resolve().parent
VARIANTS = {"paper": ("masked, as the text says", "#0072B2"), "code": ("scores as they are, as released", "#D55E00")}


def measure(root: Path) -> pd.DataFrame:
    """A row for each finished run."""
    rows = []
    for _, record in finished(root, "table1/*/s*"):
        rows.append(
            {
                "variant": record["config"]["variant"],
                "source": record["config"]["sparsity"]["level"],
                "final": record["config"]["method"]["final_sparsity"],
                "seed": record["seed"],
                "realised": record["sparsity"]["realised"],
                "accuracy": record["metrics"]["test/acc"],
                "hash": record["hash"][:8],
            }
        )
    return pd.DataFrame(rows).sort_values(["variant", "source", "final", "seed"])


def runs_of(runs: pd.DataFrame, variant: str, cell: Cell) -> pd.DataFrame:
    """Those of one number of the table."""
    return runs[(runs["variant"] == variant) & (runs["source"] == cell.level) & (runs["final"] == cell.final)]


def table(runs: pd.DataFrame) -> str:
    rows = []
    for cell, number in printed("table1").items():
        row = [f"{cell.level:g} → {cell.final:g}", f"{number.value:.1f}"]
        for variant in VARIANTS:
            part = runs_of(runs, variant, cell)
            row += [f"{part['realised'].mean():.4f}", spread(part["accuracy"]), str(len(part))]
        rows.append(row)
    ours = ["masked: sparsity", "accuracy", "n", "raw scores: sparsity", "accuracy", "n"]
    return lines(["source → final", "printed (resnet18, CIFAR-10)", *ours], rows)


def plot(runs: pd.DataFrame) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    pairs = printed("table1")
    for name, (label, colour) in VARIANTS.items():
        accuracy = [100 * runs_of(runs, name, cell)["accuracy"].mean() for cell in pairs]
        axes.plot(range(len(pairs)), accuracy, color=colour, marker="o", label=f"{label}: digits")
    theirs = [number.value for number in pairs.values()]
    axes.plot(range(len(pairs)), theirs, color="0.5", marker="s", ls=":", label="printed: resnet18, CIFAR-10")
    axes.set_xticks(range(len(pairs)), [f"{cell.level:g} → {cell.final:g}" for cell in pairs])
    frame(axes, xlabel="source → final sparsity that is asked for", ylabel="test accuracy, %", ylim=(0, 103))
    axes.set_title("Table 1 as its text says, and as its code does", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(HERE / "released_code.png", dpi=140)


if __name__ == "__main__":
    make(HERE, measure, table, plot)
