"""Theorem 2.7: how wide one hidden layer must be for a path from each input, beside what the paper bounds it by."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ersparse.theory.experiments import Cell, Options, Result
from ersparse.theory.plots import COLORS, new_figure, plain_ticks, points, save, style
from ersparse.theory.success_probability import reached_through, wilson
from ersparse.theory.tables import write_table
from ersparse.theory.widths import factor, lower_bound, lower_bound_of_the_proof


def cells(options: Options) -> list[Cell]:
    """For each density and number of inputs, widths around the smallest that does."""
    densities = options.p or options.choose(
        [0.1, 0.5], [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95], np.geomspace(0.01, 0.98, 12)
    )
    trials = options.trials or options.choose(200, 4000, 40000)
    found: list[Cell] = []
    for d in options.choose([4], [1, 10, 100], [1, 10, 100, 1000]):
        for p in (float(p) for p in densities):
            smallest = smallest_width(p, d, options.delta)
            low = int(np.ceil(lower_bound(p, options.delta, d))) - 1  # the widest that the theorem rules out
            for n in sorted({max(1, low), max(1, smallest // 2), max(1, smallest - 1), smallest}):
                found.append({"p": p, "d": d, "n": n, "delta": options.delta, "trials": trials})
    return found


def smallest_width(p: float, d: int, delta: float) -> int:
    """The smallest n whose network has a path from all d inputs with probability 1 - delta, by bisection."""
    low, high = 0, 1
    while reached_through(high, p, p, d) < 1 - delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached_through(middle, p, p, d) >= 1 - delta else (middle, high)
    return high


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """Networks with a path from each input, among drawn ones; hidden neurons without an output link are not drawn."""
    successes = 0
    for _ in range(cell["trials"]):
        linked = random.binomial(cell["n"], cell["p"])
        first = np.asarray(
            random.geometric(cell["p"], cell["d"])
        )  # of the linked neurons, the first that an input reaches
        successes += bool((first <= linked).all())
    return {"successes": successes}


def report(options: Options, results: list[tuple[Cell, Result]], folder: Path) -> dict[str, float]:
    """success.*: measured beside exact. widths.*, lower.png: the smallest width beside the bounds."""
    rows = []
    for cell, result in results:
        interval = wilson(result["successes"], cell["trials"])
        bound = float(lower_bound(cell["p"], cell["delta"], cell["d"]))
        rows.append(
            {
                **{key: cell[key] for key in ("p", "d", "n", "trials")},
                "successes": result["successes"],
                "measured": result["successes"] / cell["trials"],
                "low": interval[0],
                "high": interval[1],
                "exact": reached_through(cell["n"], cell["p"], cell["p"], cell["d"]),
                "ruled_out": cell["n"] < bound,
            }
        )
    write_table(folder, "success", rows)
    widths = _widths(options.delta, sorted({(cell["d"], cell["p"]) for cell, _ in results}))
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


def _widths(delta: float, pairs: list[tuple[int, float]]) -> list[dict[str, float]]:
    return [
        {
            "d": d,
            "p": p,
            "smallest": smallest_width(p, d, delta),
            "printed": float(lower_bound(p, delta, d)),
            "of_the_proof": float(lower_bound_of_the_proof(p, delta, d)),
            "smallest_over_factor": smallest_width(p, d, delta) / float(factor(p)),
        }
        for d, p in pairs
    ]


def _plot(delta: float, widths: list[dict[str, float]], rows: list[dict[str, float]], path: Path) -> None:
    """Left: widths over density. Right: measured success beside exact, around the smallest width."""
    figure, (left, right) = new_figure(2)
    inputs = sorted({row["d"] for row in widths})
    for number, d in enumerate(inputs):
        mine = [row for row in widths if row["d"] == d]
        p, color = [row["p"] for row in mine], COLORS[number]
        left.plot(
            p,
            [row["smallest"] for row in mine],
            linestyle="none",
            markersize=6,
            label=f"smallest, d = {d:g} inputs",
            **style(number),
        )
        left.plot(p, [row["printed"] for row in mine], color=color, label="Theorem 2.7, printed")
        left.plot(p, [row["of_the_proof"] for row in mine], color=color, linestyle=":", label="A.6, with p²")
        some = [row for row in rows if row["d"] == d]
        points(
            right,
            [row["exact"] for row in some],
            [row["measured"] for row in some],
            [(row["low"], row["high"]) for row in some],
            number,
            f"d = {d:g} inputs",
        )
    left.set(
        xscale="log",
        yscale="log",
        xlabel="density p",
        ylabel="hidden neurons",
        title=f"Width for success {1 - delta:g}",
    )
    right.plot([0, 1], [0, 1], color="#000000", linewidth=1, label="measured = exact")
    right.set(
        xlabel="exact probability of success",
        ylabel="measured share of draws, 95 % interval",
        title="Success of the cells",
    )
    for axis in (left.xaxis, left.yaxis):
        plain_ticks(axis)
    left.legend(fontsize=7)
    right.legend(fontsize=8)
    save(figure, path)
