"""Table and plot that compare Table 1 with masks (as in the paper) and with raw scores (as in the released code).

python -m results.released_code.make ROOT    write runs.csv from the runs of experiment=table1 below ROOT,
                                             then the table and the plot
python -m results.released_code.make         write the table and the plot from runs.csv
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from ersparse.report.paper import PrintedCell, printed
from ersparse.storage.tables import markdown_table
from results.shared import finished_runs, format_axes, make, mean_and_deviation

HERE = Path(__file__).resolve().parent
VARIANTS = {"paper": ("masked, as the text says", "#0072B2"), "code": ("scores as they are, as released", "#D55E00")}


def measure(root: Path) -> pd.DataFrame:
    """Return a row for each finished run below `root`."""
    rows = []
    for _, record in finished_runs(root, "table1/*/s*"):
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


def runs_of(runs: pd.DataFrame, variant: str, cell: PrintedCell) -> pd.DataFrame:
    """Return the runs that belong to one cell of the table."""
    return runs[(runs["variant"] == variant) & (runs["source"] == cell.level) & (runs["final"] == cell.final)]


def table(runs: pd.DataFrame) -> str:
    """Return the printed accuracies, and the realised sparsity and the accuracy of both variants."""
    rows = []
    for cell, number in printed("table1").items():
        row = [f"{cell.level:g} → {cell.final:g}", f"{number.value:.1f}"]
        for variant in VARIANTS:
            part = runs_of(runs, variant, cell)
            row += [f"{part['realised'].mean():.4f}", mean_and_deviation(part["accuracy"]), str(len(part))]
        rows.append(row)
    ours = ["masked: sparsity", "accuracy", "n", "raw scores: sparsity", "accuracy", "n"]
    return markdown_table(["source → final", "printed (resnet18, CIFAR-10)", *ours], rows)


def plot(runs: pd.DataFrame) -> None:
    """Plot the mean accuracy of both variants and the printed accuracy for each pair of sparsities."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    pairs = printed("table1")
    for name, (label, color) in VARIANTS.items():
        accuracy = [100 * runs_of(runs, name, cell)["accuracy"].mean() for cell in pairs]
        axes.plot(range(len(pairs)), accuracy, color=color, marker="o", label=f"{label}: digits")
    printed_accuracy = [number.value for number in pairs.values()]
    axes.plot(range(len(pairs)), printed_accuracy, color="0.5", marker="s", ls=":", label="printed: resnet18, CIFAR-10")
    axes.set_xticks(range(len(pairs)), [f"{cell.level:g} → {cell.final:g}" for cell in pairs])
    format_axes(axes, xlabel="source → final sparsity that is asked for", ylabel="test accuracy, %", ylim=(0, 103))
    axes.set_title("Table 1 as its text says, and as its code does", fontsize=11)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(HERE / "released_code.png", dpi=140)


if __name__ == "__main__":
    make(HERE, measure, table, plot)
