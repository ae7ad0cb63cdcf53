"""What the presets weak and conv share: how many copies of each target neuron are needed, measured and bounded.

Widths are varied along the theorem's own profile: layer l has ceil(q_l k / q_0) copies, and k is what is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ersparse.theory.experiments import Cell, Result
from ersparse.theory.plots import COLORS, new_figure, plain_ticks, points, save, style
from ersparse.theory.success_probability import simulate_weak, weak_success, wilson
from ersparse.theory.widths import factor, factor_approximation, weak_copies, weak_copies_printed

Target = dict[str, Any]  # widths: [d, n_1, ..., n_L]; kernel: elements of each layer's kernel; every weight is needed


def needed(target: Target) -> list[NDArray[np.int64]]:
    """Target weights by layer, [outputs, inputs], of a target without zeros."""
    widths = target["widths"]
    return [np.full((n, d), target["kernel"], dtype=np.int64) for d, n in pairwise(widths)]


def densities(target: Target, p: float, p0: float) -> list[float]:
    return [p0] + [p] * (len(target["widths"]) - 1)


def sizes(target: Target) -> list[int]:
    """m_1..m_L."""
    return [int(layer.sum()) for layer in needed(target)]


def profile(copies: Sequence[int], first: int) -> list[int]:
    """`copies` in proportion, with `first` in layer 0, rounded up."""
    return [max(1, -(-q * first // copies[0])) for q in copies[:-1]] + [1]


def measure(cell: Cell, random: np.random.Generator) -> Result:
    return measure_width(cell, random) if cell["kind"] == "width" else measure_curve(cell, random)


def measure_curve(cell: Cell, random: np.random.Generator) -> Result:
    """Draws that contain the ticket, along a list of widths."""
    p = densities(cell, cell["p"], cell["p0"])
    return {"successes": [_count(cell, p, copies, True, cell["trials"], random) for copies in cell["copies"]]}


def measure_width(cell: Cell, random: np.random.Generator) -> Result:
    """The smallest first-layer copies whose measured success is 1-delta, and whose interval's ends are.

    Returns:
        For "every" copy whole and "any" copy whole: [the point, by the upper end, by the lower end of the interval];
        the last is None where the trials are too few for the lower end to come so high.
    """
    bound = weak_copies(sizes(cell), densities(cell, cell["p"], cell["p0"]), cell["delta"])
    return {"bound": bound, "every": _ends(cell, bound, True, random), "any": _ends(cell, bound, False, random)}


def _ends(cell: Cell, bound: list[int], every: bool, random: np.random.Generator) -> list[int | None]:
    p, trials, aim = densities(cell, cell["p"], cell["p0"]), cell["trials"], 1 - cell["delta"]

    @cache
    def share(first: int) -> tuple[float, float, float]:
        successes = _count(cell, p, profile(bound, first), every, trials, random)
        low, high = wilson(successes, trials)
        return successes / trials, high, low

    point, upper = (smallest(lambda first, end=end: share(first)[end] >= aim) for end in (0, 1))  # type: ignore[misc]
    if wilson(trials, trials)[0] < aim:
        return [point, upper, None]
    return [point, upper, smallest(lambda first: share(first)[2] >= aim)]


def smallest(enough: Callable[[int], bool]) -> int:
    """The smallest positive integer that is enough, for a condition that holds from there on."""
    low, high = 0, 1
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def exact_width(target: Target, p: list[float], delta: float) -> int:
    """As `measure_width` for every copy, from the closed form."""
    bound = weak_copies(sizes(target), p, delta)
    return smallest(lambda first: weak_success(needed(target), profile(bound, first), p) >= 1 - delta)


def curve_rows(results: Sequence[tuple[Cell, Result]]) -> list[dict[str, Any]]:
    rows = []
    for cell, result in results:
        p = densities(cell, cell["p"], cell["p0"])
        for copies, successes in zip(cell["copies"], result["successes"], strict=True):
            low, high = wilson(successes, cell["trials"])
            rows.append(
                {**_target_columns(cell), "q_0": copies[0], "multiple": copies[0] / float(factor(cell["p"]))}
                | {"trials": cell["trials"], "successes": successes, "measured": successes / cell["trials"]}
                | {"low": low, "high": high, "exact": weak_success(needed(cell), copies, p)}
            )
    return rows


def bound_rows(results: Sequence[tuple[Cell, Result]]) -> list[dict[str, Any]]:
    """At the bounds' widths: how often the construction fails, beside delta."""
    rows = []
    for cell, result in results:
        p = densities(cell, cell["p"], cell["p0"])
        for name, copies, successes in zip(cell["names"], cell["copies"], result["successes"], strict=True):
            low, high = wilson(successes, cell["trials"])
            rows.append(
                {**_target_columns(cell), "bound": name, "copies": " ".join(map(str, copies)), "delta": cell["delta"]}
                | {"trials": cell["trials"], "failures": cell["trials"] - successes}
                | {"failed": 1 - successes / cell["trials"], "low": 1 - high, "high": 1 - low}
                | {"exact": 1 - weak_success(needed(cell), copies, p)}
            )
    return rows


def bound_cell(target: Target, p: float, p0: float, delta: float, trials: int) -> Cell:
    """A curve cell at the widths of the printed and of the corrected bound."""
    by_layer = densities(target, p, p0)
    copies = [weak_copies_printed(sizes(target), by_layer, delta), weak_copies(sizes(target), by_layer, delta)]
    names = ["printed", "corrected"]
    return {
        "kind": "bound",
        **target,
        "p": p,
        "p0": p0,
        "delta": delta,
        "names": names,
        "copies": copies,
        "trials": trials,
    }


def curve_cell(target: Target, p: float, delta: float, trials: int, points: int) -> Cell:
    """Widths from where success is rare to the bound's."""
    by_layer = densities(target, p, 1.0)
    bound = weak_copies(sizes(target), by_layer, delta)
    low = smallest(lambda first: weak_success(needed(target), profile(bound, first), by_layer) >= 0.01)
    firsts = sorted({round(first) for first in np.linspace(low, bound[0], points)})
    copies = [profile(bound, first) for first in firsts]
    return {"kind": "curve", **target, "p": p, "p0": 1.0, "copies": copies, "trials": trials}


def width_rows(results: Sequence[tuple[Cell, Result]]) -> list[dict[str, Any]]:
    rows = []
    for cell, result in results:
        p, scale = densities(cell, cell["p"], cell["p0"]), float(factor(cell["p"]))
        rows.append(
            {**_target_columns(cell), "bound": result["bound"][0], "exact": exact_width(cell, p, cell["delta"])}
            | {"measured": result["every"][0], "from": result["every"][1], "to": result["every"][2]}
            | {"any_copy": result["any"][0], "any_from": result["any"][1], "any_to": result["any"][2]}
            | {"bound_multiple": result["bound"][0] / scale, "measured_multiple": result["every"][0] / scale}
            | {"any_multiple": result["any"][0] / scale}
        )
    return rows


def plot_success(axes: Any, rows: Sequence[dict[str, Any]], bounds: dict[float, float]) -> None:
    """Success over the width in units of 1/log(1/(1-p)): lines exact, points measured, dashes the bound's width."""
    for number, p in enumerate(sorted({row["p"] for row in rows})):
        mine = [row for row in rows if row["p"] == p]
        x = [row["multiple"] for row in mine]
        points(
            axes,
            x,
            [row["measured"] for row in mine],
            [(row["low"], row["high"]) for row in mine],
            number,
            f"p = {p:g}",
        )
        axes.plot(x, [row["exact"] for row in mine], color=COLORS[number % len(COLORS)], linewidth=1)
        axes.axvline(bounds[p], color=COLORS[number % len(COLORS)], linestyle="--", linewidth=1)
    axes.plot([], [], color="#000000", linewidth=1, label="exact")
    axes.plot([], [], color="#000000", linewidth=1, linestyle="--", label="the bound's width")
    axes.set(
        xlabel="copies of an input, in units of 1/log(1/(1-p))", ylabel="draws that contain the ticket, 95 % interval"
    )
    axes.legend(fontsize=8, loc="upper left")


def plot_widths(axes: Any, rows: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], str]) -> None:
    """Copies of an input over the density: the bound as a line, measured points, and 1/p for 1/log(1/(1-p))."""
    for number, label in enumerate(dict.fromkeys(name(row) for row in rows)):
        mine = [row for row in rows if name(row) == label]
        p, measured, look = [row["p"] for row in mine], [row["measured"] for row in mine], style(number)
        axes.plot(p, [row["bound"] for row in mine], color=look["color"], label=f"{label}: the bound")
        points(axes, p, measured, [(row["from"], row["to"] or row["measured"]) for row in mine], number, "")
        axes.plot(p, [row["any_copy"] for row in mine], linestyle="none", fillstyle="none", markersize=5, **look)
        if number == 0:
            near = [row["bound_multiple"] * float(factor_approximation(row["p"])) for row in mine]
            axes.plot(p, near, color="#000000", linestyle=":", label=f"{label}: with 1/p for 1/log(1/(1-p))")
    black = {"linestyle": "none", "color": "#000000", "marker": "o", "markersize": 5}
    axes.plot([], [], label="measured, every copy whole, 95 % interval", **black)
    axes.plot([], [], label="measured, broken copies left out", fillstyle="none", **black)
    axes.set(xscale="log", yscale="log", xlabel="density p", ylabel="copies of an input")
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)
    axes.legend(fontsize=8)


def _count(
    cell: Cell, p: Sequence[float], copies: Sequence[int], every: bool, trials: int, random: np.random.Generator
) -> int:
    return sum(simulate_weak(needed(cell), copies, p, random, every) for _ in range(trials))


def _target_columns(cell: Cell) -> dict[str, Any]:
    return {"widths": " ".join(map(str, cell["widths"])), "kernel": cell["kernel"], "p": cell["p"], "p_0": cell["p0"]}


def two_panels(path: Path, left: Callable[[Any], None], right: Callable[[Any], None]) -> None:
    figure, axes = new_figure(2)
    left(axes[0])
    right(axes[1])
    save(figure, path)
