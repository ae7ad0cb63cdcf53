"""Experiment on Theorems 2.4 and 2.5: weak tickets of fully connected targets, constructed and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ersparse.theory.experiments import Cell, ExperimentOptions, Measurement, Result, width_search
from ersparse.theory.experiments import width_report as reporting
from ersparse.theory.experiments.built_tickets import built_metrics, built_rows, construct
from ersparse.theory.networks import affine_layers, nonzero_weights, random_target
from ersparse.theory.plots import new_figure, save_figure
from ersparse.theory.tables import write_table
from ersparse.theory.widths import weak_copies


def cells(options: ExperimentOptions) -> list[Cell]:
    """Return cells that count successes at the bounds, search for widths, and construct tickets."""
    densities = options.p or options.choose(
        [0.2, 0.7], [0.05, 0.1, 0.2, 0.4, 0.7, 0.95], [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.9, 0.99]
    )
    trials = options.trials or options.choose(100, 500, 2000)
    width, delta = options.choose(4, 8, 16), options.delta
    found: list[Cell] = []
    for depth in options.choose([2], [1, 2, 5], [1, 2, 4, 6]):
        target = {"widths": [width] * (depth + 1), "kernel": 1}
        for p in map(float, densities):
            found.append(width_search.bound_cell(target, p, 1.0, delta, trials))
            if p < 1:
                found.append(width_search.width_cell(target, p, delta, trials))
            if depth == 2:
                found.append(width_search.bound_cell(target, p, p, delta, trials))
            if depth == 2 and p < 1:
                found.append(width_search.curve_cell(target, p, delta, trials, options.choose(4, 8, 12)))
    for p in map(float, densities):
        found += [_built_cell(p, p0, options) for p0 in sorted({p, 1.0})]
    return found


def _built_cell(p: float, p0: float, options: ExperimentOptions) -> Cell:
    """Return a cell that constructs tickets; `largest` limits the possible edges of each layer of a source network."""
    tickets, largest = options.choose(3, 20, 100), options.choose(1e6, 1e7, 3e7)
    return {"kind": "built", "p": p, "p0": p0, "delta": options.delta, "tickets": tickets, "largest": largest}


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """Construct tickets or, for cells of another kind, simulate success probabilities."""
    return _construct(cell, random) if cell["kind"] == "built" else width_search.measure(cell, random)


def _construct(cell: Cell, random: np.random.Generator) -> Result:
    """Construct random targets in drawn source networks of the bound's width."""
    result: Result = {"errors": [], "failures": []}
    while len(result["errors"]) + len(result["failures"]) < cell["tickets"]:
        widths = [int(width) for width in random.integers(1, 65, random.integers(2, 8))]
        target = random_target(widths, float(random.uniform(0.05, 1)), random)
        p = [cell["p0"]] + [cell["p"]] * (len(widths) - 1)
        q = weak_copies(nonzero_weights(affine_layers(target)), p, cell["delta"])
        possible_edges = [a * b * c * d for a, b, c, d in zip(widths[:-1], q[:-1], widths[1:], q[1:], strict=True)]
        if max(possible_edges) <= cell["largest"]:
            construct(result, target, q, p, (256, widths[0]), random)
    return result


def report(options: ExperimentOptions, results: list[Measurement], folder: Path) -> dict[str, float]:
    """Write success.*, bound.*, widths.*, built.* and weak.png, and return the main metrics."""
    success = reporting.success_rows(reporting.of_kind(results, "curve"))
    bound = reporting.bound_rows(reporting.of_kind(results, "bound"))
    widths = reporting.width_rows(reporting.of_kind(results, "width"))
    built = built_rows(reporting.of_kind(results, "built"))
    for name, rows in (("success", success), ("bound", bound), ("widths", widths), ("built", built)):
        write_table(folder, name, rows)
    if success and widths:
        _plot(options, success, widths, folder / "weak.png")
    printed = [row for row in bound if row["bound"] == "printed"]
    return {
        **built_metrics(built),
        **reporting.corrected_bound_metrics(bound, options.delta),
        "printed bound: intervals wholly above delta": reporting.intervals_above_delta(printed),
        "exact inside the 95 % interval, share": float(
            np.mean([row["low"] <= row["exact"] <= row["high"] for row in success])
        ),
    }


def _plot(options: ExperimentOptions, success: list[dict[str, Any]], widths: list[dict[str, Any]], path: Path) -> None:
    """Plot the success probability over the width on the left, and the copies over the density on the right."""
    figure, (left, right) = new_figure(2)
    bounds = {row["p"]: row["bound_multiple"] for row in widths if len(row["widths"].split()) == 3}
    reporting.plot_success(left, success, bounds)
    left.set_title(f"Two layers of {success[0]['widths'].split()[0]}, univariate blocks given (p_0 = 1)")
    reporting.plot_widths(right, widths, lambda row: f"depth {len(row['widths'].split()) - 1}")
    right.set_title(f"Copies for success {1 - options.delta:g}")
    save_figure(figure, path)
