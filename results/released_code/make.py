"""Table 1 with and without what the released code does: the table and plot in this folder.

python results/released_code/make.py ROOT    reads the runs of experiment=table1 under ROOT, writes runs.csv, then both
python results/released_code/make.py         both, from runs.csv
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from ersparse.report.paper import printed

HERE = Path(__file__).resolve().parent
VARIANTS = {"paper": ("masked, as the text says", "#0072B2"), "code": ("scores as they are, as released", "#D55E00")}


def measure(root: Path) -> pd.DataFrame:
    """A row for each finished run."""
    rows = []
    for path in sorted(root.glob("table1/*/s*/run.json")):
        record = json.loads(path.read_text())
        if record["state"] == "done":
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


def cells(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each pair of the table, in its order."""
    pairs = {(cell.level, cell.final): number.value for cell, number in printed("table1").items()}
    rows = []
    for (source, final), value in pairs.items():
        row: dict = {"source": source, "final": final, "printed": value}
        for variant in VARIANTS:
            part = runs[(runs["variant"] == variant) & (runs["source"] == source) & (runs["final"] == final)]
            row |= {variant: 100 * part["accuracy"].mean(), f"{variant}_sd": 100 * part["accuracy"].std()}
            row |= {f"{variant}_realised": part["realised"].mean(), f"{variant}_n": len(part)}
        rows.append(row)
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> str:
    lines = [
        "| source → final | printed (resnet18, CIFAR-10) | masked: sparsity | accuracy | n "
        "| raw scores: sparsity | accuracy | n |"
    ]
    lines.append("|---" * 8 + "|")
    for row in found.to_dict("records"):
        shown = " | ".join(
            f"{row[f'{name}_realised']:.4f} | {row[name]:.1f} ± {row[f'{name}_sd']:.1f} | {row[f'{name}_n']}"
            for name in VARIANTS
        )
        lines.append(f"| {row['source']:g} → {row['final']:g} | {row['printed']:.1f} | {shown} |")
    return "\n".join(lines) + "\n"


def plot(found: pd.DataFrame) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    places = range(len(found))
    for name, (label, colour) in VARIANTS.items():
        axes.errorbar(
            places, found[name], found[f"{name}_sd"], color=colour, marker="o", capsize=3, label=f"{label}: digits"
        )
    axes.plot(places, found["printed"], color="0.5", marker="s", ls=":", label="printed: resnet18, CIFAR-10")
    axes.set_xticks(list(places), [f"{row.source:g} → {row.final:g}" for row in found.itertuples()])
    axes.set(xlabel="source → final sparsity that is asked for", ylabel="test accuracy, %", ylim=(0, 103))
    axes.set_title("Table 1 as its text says, and as its code does", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(HERE / "released_code.png", dpi=140)


def main() -> None:
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1])).to_csv(HERE / "runs.csv", index=False)
    found = cells(pd.read_csv(HERE / "runs.csv"))
    text = table(found)
    (HERE / "table.md").write_text(text)
    print(text)
    plot(found)


if __name__ == "__main__":
    main()
