"""Table and plot of strong tickets on digits and of their controls.

    python launch.py -m "seed=range(0,5)" method=edge_popup sparsity=uniform method.epochs_per_level=6 \
        "sparsity.level,method.final_sparsity=[0.5,0.8],..." paths.root=ROOT       (the whole command is in README.md)
    python -m results.strong.make ROOT      evaluate the controls and write runs.csv, then the table and the plot
    python -m results.strong.make           write the table and the plot from runs.csv

Controls with a result are not evaluated again, so the script can run repeatedly while the sweep is in progress.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ersparse import run
from ersparse.config.options import CONF
from ersparse.storage.tables import markdown_table
from results.shared import (
    finished_runs,
    format_axes,
    make,
    mean_and_deviation,
    mean_and_interval,
)

HERE = Path(__file__).resolve().parent
CONTROLS = {"recalibrated": "none", "shuffled": "shuffle", "redrawn": "reinit"}
COLORS = {0.0: "#0072B2", 0.5: "#D55E00", 0.8: "#009E73"}


def evaluate(root: Path, *overrides: str) -> dict:
    """Evaluate a network without training it, and return its run.json."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["method=evaluate", f"paths.root={root}", *overrides])
        values = OmegaConf.to_container(config, resolve=True)
    return json.loads((run(values) / "run.json").read_text())


def measure(root: Path) -> pd.DataFrame:
    """Evaluate the controls of each finished ticket below `root`, and return a row for each ticket."""
    rows = []
    for folder, record in finished_runs(root, "runs/*-edge_popup-*/s*"):
        config, seed = record["config"], record["seed"]
        source = config["sparsity"]["level"]
        row = {
            "source": source,
            "final": config["method"]["final_sparsity"],
            "seed": seed,
            "realised": record["sparsity"]["realised"],
            "effective": record["sparsity"]["effective"],
            "ticket": record["metrics"]["test/acc"],
        }
        for name, control in CONTROLS.items():
            overrides = f"model.init_from={folder}", f"sparsity.control={control}", f"seed={seed}"
            found = evaluate(root / "controls", *overrides)
            assert [layer["nonzero"] for layer in found["layers"]] == [layer["nonzero"] for layer in record["layers"]]
            row[name] = found["metrics"]["test/acc"]
        found = evaluate(root / "controls", "sparsity=uniform", f"sparsity.level={source}", f"seed={seed}")
        assert found["source_mask_sha256"] == record["source_mask_sha256"]
        rows.append(row | {"untrained": found["metrics"]["test/acc"], "hash": record["hash"][:8]})
    return pd.DataFrame(rows).sort_values(["source", "final", "seed"])


def table(runs: pd.DataFrame) -> str:
    """Return accuracies in per cent as mean and sample standard deviation over seeds.

    The last column is the ticket minus the best control of each seed, with its 95 % t-interval.
    """
    columns = ["ticket", *CONTROLS, "untrained"]
    rows = []
    for (source, final), cell in runs.groupby(["source", "final"]):
        gain = 100 * (cell["ticket"] - cell[columns[2:]].max(axis=1))
        first_columns = [f"{source:g} → {final:g}", str(len(cell)), f"{cell['realised'].mean():.4f}"]
        rows.append([*first_columns, *(mean_and_deviation(cell[name]) for name in columns), mean_and_interval(gain)])
    return markdown_table(["source → final", "n", "realised", *columns, "ticket − best control"], rows)


def plot(runs: pd.DataFrame) -> None:
    """Plot the accuracies of tickets and controls over the final sparsity."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for source, part in runs.groupby("source"):
        cells = part.groupby("final")
        density = 100 * (1 - cells["ticket"].mean().index.to_numpy())
        for name, style in (("ticket", "-"), ("shuffled", ":"), ("redrawn", "--")):
            mean, sd = 100 * cells[name].mean(), 100 * cells[name].std()
            axes.plot(density, mean, style, marker="o", ms=4, color=COLORS[source])
            if name == "ticket":
                axes.errorbar(density, mean, sd, fmt="none", color=COLORS[source], alpha=0.5, capsize=3)
        axes.plot([], [], color=COLORS[source], label=f"source sparsity {source:g}")
    for name, style in (("ticket", "-"), ("ticket shuffled within layers", ":"), ("its mask, weights redrawn", "--")):
        axes.plot([], [], style, color="0.3", label=name)
    axes.axhline(10, color="0.7", lw=0.8)
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = sorted({100 * (1 - final) for final in runs["final"]}, reverse=True)
    axes.set_xticks(ticks, [f"{1 - tick / 100:g}" for tick in ticks])
    axes.minorticks_off()
    format_axes(axes, xlabel="final sparsity", ylabel="test accuracy, %", ylim=(0, 102))
    axes.set_title("Tickets found in untrained networks: resnet20, digits", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 0.13))
    figure.savefig(HERE / "strong.png", dpi=150)


if __name__ == "__main__":
    make(HERE, measure, table, plot)
