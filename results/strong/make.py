"""Strong tickets on digits: controls of every ticket, and the table and plot in this folder.

    python launch.py -m "seed=range(0,5)" method=edge_popup sparsity=uniform method.epochs_per_level=6 \
        "sparsity.level,method.final_sparsity=[0.5,0.8],..." paths.root=ROOT       (the whole command is in README.md)
    python -m results.strong.make ROOT      evaluates controls, writes runs.csv, then the table and the plot
    python -m results.strong.make           the table and the plot, from runs.csv

A control that was evaluated before is left alone, so this can be issued while the sweep still runs.
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
from results.shared import finished, frame, interval, lines, make, spread

HERE = Path(__file__).resolve().parent
CONTROLS = {"recalibrated": "none", "shuffled": "shuffle", "redrawn": "reinit"}
COLOURS = {0.0: "#0072B2", 0.5: "#D55E00", 0.8: "#009E73"}


def evaluated(root: Path, *words: str) -> dict:
    """The record of a network that nothing trains."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["method=evaluate", f"paths.root={root}", *words])
        values = OmegaConf.to_container(config, resolve=True)
    return json.loads((run(values) / "run.json").read_text())


def measure(root: Path) -> pd.DataFrame:
    """A row for each finished ticket under `root`, with its controls, which are evaluated on the way."""
    rows = []
    for folder, record in finished(root, "runs/*-edge_popup-*/s*"):
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
            words = f"model.init_from={folder}", f"sparsity.control={control}", f"seed={seed}"
            found = evaluated(root / "controls", *words)
            assert [layer["nonzero"] for layer in found["layers"]] == [layer["nonzero"] for layer in record["layers"]]
            row[name] = found["metrics"]["test/acc"]
        found = evaluated(root / "controls", "sparsity=uniform", f"sparsity.level={source}", f"seed={seed}")
        assert found["source_mask_sha256"] == record["source_mask_sha256"]
        rows.append(row | {"untrained": found["metrics"]["test/acc"], "hash": record["hash"][:8]})
    return pd.DataFrame(rows).sort_values(["source", "final", "seed"])


def table(runs: pd.DataFrame) -> str:
    """Per cent, mean and sample deviation over seeds; last, the ticket minus the best control of each seed, with its
    95 % t-interval."""
    columns = ["ticket", *CONTROLS, "untrained"]
    rows = []
    for (source, final), cell in runs.groupby(["source", "final"]):
        gain = 100 * (cell["ticket"] - cell[columns[2:]].max(axis=1))
        what = [f"{source:g} → {final:g}", str(len(cell)), f"{cell['realised'].mean():.4f}"]
        rows.append([*what, *(spread(cell[name]) for name in columns), interval(gain)])
    return lines(["source → final", "n", "realised", *columns, "ticket − best control"], rows)


def plot(runs: pd.DataFrame) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for source, part in runs.groupby("source"):
        cells = part.groupby("final")
        density = 100 * (1 - cells["ticket"].mean().index.to_numpy())
        for name, style in (("ticket", "-"), ("shuffled", ":"), ("redrawn", "--")):
            mean, sd = 100 * cells[name].mean(), 100 * cells[name].std()
            axes.plot(density, mean, style, marker="o", ms=4, color=COLOURS[source])
            if name == "ticket":
                axes.errorbar(density, mean, sd, fmt="none", color=COLOURS[source], alpha=0.5, capsize=3)
        axes.plot([], [], color=COLOURS[source], label=f"source sparsity {source:g}")
    for name, style in (("ticket", "-"), ("ticket shuffled within layers", ":"), ("its mask, weights redrawn", "--")):
        axes.plot([], [], style, color="0.3", label=name)
    axes.axhline(10, color="0.7", lw=0.8)
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = sorted({100 * (1 - final) for final in runs["final"]}, reverse=True)
    axes.set_xticks(ticks, [f"{1 - tick / 100:g}" for tick in ticks])
    axes.minorticks_off()
    frame(axes, xlabel="final sparsity", ylabel="test accuracy, %", ylim=(0, 102))
    axes.set_title("Tickets found in untrained networks: resnet20, digits", fontsize=11)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 0.13))
    figure.savefig(HERE / "strong.png", dpi=150)


if __name__ == "__main__":
    make(HERE, measure, table, plot)
