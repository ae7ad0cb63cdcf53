"""Experiment on Theorem 2.7: the smallest hidden layer with a path from each input, compared to the lower bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ersparse.theory.bisection import smallest_integer
from ersparse.theory.experiments import Cell, ExperimentOptions, Measurement, Result
from ersparse.theory.plots import COLORS, new_figure, plot_intervals, save_figure, series_style, use_decimal_ticks
from ersparse.theory.success_probability import two_hop_connection_probability, wilson_interval
from ersparse.theory.tables import write_table
from ersparse.theory.widths import width_factor, width_lower_bound, width_lower_bound_of_proof


def cells(options: ExperimentOptions) -> list[Cell]:
    """Return, for each density and number of inputs, cells with widths near the smallest sufficient one."""
    densities = options.p or options.choose(
        [0.1, 0.5], [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95], np.geomspace(0.01, 0.98, 12)
    )
    trials = options.trials or options.choose(200, 4000, 40000)
    found: list[Cell] = []
    for d in options.choose([4], [1, 10, 100], [1, 10, 100, 1000]):
        for p in (float(p) for p in densities):
            smallest = smallest_width(p, d, options.delta)
            excluded = int(np.ceil(width_lower_bound(p, options.delta, d))) - 1  # largest width below the bound
            for n in sorted({max(1, excluded), max(1, smallest // 2), max(1, smallest - 1), smallest}):
                found.append({"p": p, "d": d, "n": n, "delta": options.delta, "trials": trials})
    return found


def smallest_width(p: float, d: int, delta: float) -> int:
    """Return the smallest n for which all d inputs have a path with probability 1 - delta or more."""
    return smallest_integer(lambda n: two_hop_connection_probability(n, p, p, d) >= 1 - delta)


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """Count drawn networks with a path from each input; only hidden neurons with an output edge are drawn."""
    successes = 0
    for _ in range(cell["trials"]):
        linked = random.binomial(cell["n"], cell["p"])
        # The position of an input's first edge among the linked neurons is geometrically distributed.
        first_edge = np.asarray(random.geometric(cell["p"], cell["d"]))
        successes += bool((first_edge <= linked).all())
    return {"successes": successes}


def report(options: ExperimentOptions, results: list[Measurement], folder: Path) -> dict[str, float]:
    """Write success.* (measured and exact), widths.* (smallest width and bounds) and lower.png; return metrics."""
    rows = [_success_row(cell, result) for cell, result in results]
    write_table(folder, "success", rows)
    widths = _width_rows(options.delta, sorted({(cell["d"], cell["p"]) for cell, _ in results}))
    write_table(folder, "widths", widths)
    _plot(options.delta, widths, rows, folder / "lower.png")
    inside = [row["low"] <= row["exact"] <= row["high"] for row in rows]
    return {
        "exact inside the 95 % interval, share": float(np.mean(inside)),
        "ruled-out widths that succeed with 1-delta": float(
            sum(row["ruled_out"] and row["exact"] >= 1 - options.delta for row in rows)
        ),
        "smallest width / printed bound, largest": max(row["smallest"] / row["printed"] for row in widths),
        "smallest width below the proof's bound, cases": float(
            sum(row["smallest"] < row["of_the_proof"] for row in widths)
        ),
    }


def _success_row(cell: Cell, result: Result) -> dict[str, Any]:
    low, high = wilson_interval(result["successes"], cell["trials"])
    return {
        **{key: cell[key] for key in ("p", "d", "n", "trials")},
        "successes": result["successes"],
        "measured": result["successes"] / cell["trials"],
        "low": low,
        "high": high,
        "exact": two_hop_connection_probability(cell["n"], cell["p"], cell["p"], cell["d"]),
        "ruled_out": cell["n"] < float(width_lower_bound(cell["p"], cell["delta"], cell["d"])),
    }


def _width_rows(delta: float, pairs: list[tuple[int, float]]) -> list[dict[str, float]]:
    return [
        {
            "d": d,
            "p": p,
            "smallest": smallest_width(p, d, delta),
            "printed": float(width_lower_bound(p, delta, d)),
            "of_the_proof": float(width_lower_bound_of_proof(p, delta, d)),
            "smallest_over_factor": smallest_width(p, d, delta) / float(width_factor(p)),
        }
        for d, p in pairs
    ]


def _plot(delta: float, widths: list[dict[str, float]], rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the widths over the density on the left, and measured over exact success probability on the right."""
    figure, (left, right) = new_figure(2)
    for number, d in enumerate(sorted({row["d"] for row in widths})):
        label = f"d = {d:g} inputs"
        _plot_widths(left, [row for row in widths if row["d"] == d], number, label)
        cells = [row for row in rows if row["d"] == d]
        exact, measured = [row["exact"] for row in cells], [row["measured"] for row in cells]
        plot_intervals(right, exact, measured, [(row["low"], row["high"]) for row in cells], number, label)
    left.set(xscale="log", yscale="log", xlabel="density p", ylabel="hidden neurons")
    left.set_title(f"Width for success {1 - delta:g}")
    right.plot([0, 1], [0, 1], color="#000000", linewidth=1, label="measured = exact")
    right.set(
        xlabel="exact probability of success",
        ylabel="measured share of draws, 95 % interval",
        title="Success of the cells",
    )
    use_decimal_ticks(left.xaxis, left.yaxis)
    left.legend(fontsize=7)
    right.legend(fontsize=8)
    save_figure(figure, path)


def _plot_widths(axes: Any, rows: list[dict[str, float]], number: int, label: str) -> None:
    """Plot the smallest width of one number of inputs as points, and both lower bounds as lines."""
    p, color = [row["p"] for row in rows], COLORS[number]
    look = {"linestyle": "none", "markersize": 6, **series_style(number)}
    axes.plot(p, [row["smallest"] for row in rows], label=f"smallest, {label}", **look)
    axes.plot(p, [row["printed"] for row in rows], color=color, label="Theorem 2.7, printed")
    axes.plot(p, [row["of_the_proof"] for row in rows], color=color, linestyle=":", label="A.6, with p²")
