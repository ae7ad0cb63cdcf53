"""Table of methods on digits, at sparsity 0.99.

python -m results.methods.make ROOT     write runs.csv from the runs below ROOT, then the table
python -m results.methods.make          write the table from runs.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from ersparse.storage.tables import markdown_table
from results.shared import finished_runs, load_runs, mean_and_deviation, mean_and_interval, write_table

HERE = Path(__file__).resolve().parent


def label(config: dict) -> str:
    """Return the method of a run, with its reparametrisation, HAM, and where it starts."""
    method, name = config["method"], config["method"]["name"]
    factors, ham = method.get("reparametrization", "none"), config["optimizer"]["ham"]["alpha"]
    name += f" {factors}" if factors != "none" else f" ham {ham:g}" if ham else ""
    name += f" {method['initial']:g}" if name == "str" else ""
    name += f" {config['optimizer']['weight_decay']:g}" if name == "spred" else ""
    return f"{name}, dense" if name == "fixed" and config["sparsity"]["name"] == "dense" else name


def measure(root: Path) -> pd.DataFrame:
    """Return a row for each finished run below `root`."""
    rows = []
    for folder, record in finished_runs(root, "methods/*/s*"):
        dense = sum(layer["size"] for layer in record["layers"])
        rows.append(
            {
                "run": folder.parent.name,
                "seed": record["seed"],
                "method": label(record["config"]),
                "source": record["sparsity"]["nominal"],
                "accuracy": record["metrics"]["test/acc"],
                "weights": sum(layer["nonzero"] for layer in record["layers"]),
                "share": sum(layer["nonzero"] for layer in record["layers"]) / dense,
                "epochs": record["timing"]["epochs"],
                "seconds": record["timing"]["fit_s"],
            }
        )
    return pd.DataFrame(rows)


def table(runs: pd.DataFrame) -> str:
    """Return the table, with differences to the fixed mask of the same seed."""
    fixed = runs[runs.method == "fixed"].set_index("seed").accuracy
    rows = []
    for method, group in runs.groupby("method"):
        gain = 100 * (group.set_index("seed").accuracy - fixed).dropna()
        rows.append(
            {
                "method": method,
                "source": f"{group.source.iloc[0]:g}",
                "seeds": str(len(group)),
                "accuracy": mean_and_deviation(group.accuracy),
                "over fixed": "" if method == "fixed" else mean_and_interval(gain),
                "weights": f"{group.weights.mean():,.0f}",
                "FLOPs": f"{100 * group.share.mean():.2f} %",
                "epochs": str(group.epochs.iloc[0]),
                "seconds": f"{group.seconds.mean():.0f}",
                "order": -group.accuracy.mean(),
            }
        )
    ordered = sorted(rows, key=lambda row: row.pop("order"))
    return markdown_table(list(ordered[0]), [list(row.values()) for row in ordered])


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    write_table(HERE / "table.md", table(load_runs(HERE / "runs.csv", root, measure)))
