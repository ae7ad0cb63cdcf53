"""Tables of methods on digits, at sparsity 0.95 and 0.99.

python -m results.methods.make ROOT     write runs.csv from the runs below ROOT, then the tables
python -m results.methods.make          write the tables from runs.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from ersparse.storage.tables import markdown_table
from results.shared import finished_runs, load_runs, mean_and_deviation, mean_and_interval, write_table

HERE = Path(__file__).resolve().parent


LEVELS = (0.95, 0.99)


def label(config: dict) -> str:
    """Return the method of a run, with its reparametrisation, HAM, and how its source is drawn."""
    method, name, sparsity = config["method"], config["method"]["name"], config["sparsity"]
    factors, ham = method.get("reparametrization", "none"), config["optimizer"]["ham"]["alpha"]
    name += f" {factors}" if factors != "none" else f" ham {ham:g}" if ham else ""
    name += f" {method['initial']:g}" if name == "str" else ""
    name += f" {config['optimizer']['weight_decay']:g}" if name == "spred" else ""
    if name != "fixed":
        return name
    drawn = sparsity.get("sampling", "bernoulli") if sparsity["name"] == "erk" else sparsity["name"]
    return name if drawn == "bernoulli" else f"fixed, {drawn}"


def asked(config: dict) -> float | None:
    """Return the sparsity that a run was to end at; None if it is dense, or its sparsity is an outcome."""
    method, sparsity = config["method"], config["sparsity"]
    if method.get("final_sparsity") is not None:
        return method["final_sparsity"]
    return None if sparsity["name"] == "dense" else sparsity["level"]


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
                "asked": asked(record["config"]),
                "source": record["sparsity"]["nominal"],
                "accuracy": record["metrics"]["test/acc"],
                "weights": sum(layer["nonzero"] for layer in record["layers"]),
                "share": sum(layer["nonzero"] for layer in record["layers"]) / dense,
                "epochs": record["timing"]["epochs"],
                "seconds": record["timing"]["fit_s"],
            }
        )
    return pd.DataFrame(rows)


def tables(runs: pd.DataFrame) -> str:
    """Return a table for each level, and one of the runs that have none."""
    parts = []
    for level in LEVELS:
        at_level = runs[runs.asked == level]
        parts.append(f"## Sparsity {level:g}\n\n" + table(at_level, fixed_at(runs, level)))
    others = table(runs[runs.asked.isna()], fixed_at(runs, LEVELS[-1]))
    return "\n".join([*parts, f"## Dense, and learnt sparsity, over the fixed masks at {LEVELS[-1]:g}\n\n{others}"])


def fixed_at(runs: pd.DataFrame, level: float) -> pd.Series:
    """Return the accuracy of fixed masks at a level, by seed."""
    return runs[(runs.method == "fixed") & (runs.asked == level)].set_index("seed").accuracy


def table(runs: pd.DataFrame, fixed: pd.Series) -> str:
    """Return the table of some runs, with differences to the fixed mask of the same seed."""
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
                "seconds": f"{group.seconds.min():.1f}",
                "order": -group.accuracy.mean(),
            }
        )
    ordered = sorted(rows, key=lambda row: row.pop("order"))
    return markdown_table(list(ordered[0]), [list(row.values()) for row in ordered])


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    write_table(HERE / "table.md", tables(load_runs(HERE / "runs.csv", root, measure)))
