"""Tables, metrics and plots shared by the experiments weak and conv."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ersparse.theory.experiments import Cell, Measurement
from ersparse.theory.experiments.width_search import cell_densities, exact_width, kernel_elements
from ersparse.theory.plots import COLORS, plot_intervals, series_style, use_decimal_ticks
from ersparse.theory.success_probability import weak_ticket_probability, wilson_interval
from ersparse.theory.widths import width_factor, width_factor_approximation


def of_kind(results: Sequence[Measurement], kind: str) -> list[Measurement]:
    """Return the measurements whose cells are of one kind: curve, bound, width or built."""
    return [(cell, result) for cell, result in results if cell["kind"] == kind]


def _target_columns(cell: Cell) -> dict[str, Any]:
    return {"widths": " ".join(map(str, cell["widths"])), "kernel": cell["kernel"], "p": cell["p"], "p_0": cell["p0"]}


def success_rows(results: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a row for each width of the curve cells: measured and exact success probability."""
    rows = []
    for cell, result in results:
        p, elements, scale = cell_densities(cell), kernel_elements(cell), float(width_factor(cell["p"]))
        for copies, successes in zip(cell["copies"], result["successes"], strict=True):
            low, high = wilson_interval(successes, cell["trials"])
            rows.append(
                {**_target_columns(cell), "q_0": copies[0], "multiple": copies[0] / scale}
                | {"trials": cell["trials"], "successes": successes, "measured": successes / cell["trials"]}
                | {"low": low, "high": high, "exact": weak_ticket_probability(elements, copies, p)}
            )
    return rows


def bound_rows(results: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a row for each bound of the bound cells: measured and exact failure probability, and delta."""
    rows = []
    for cell, result in results:
        p, elements = cell_densities(cell), kernel_elements(cell)
        for name, copies, successes in zip(cell["names"], cell["copies"], result["successes"], strict=True):
            low, high = wilson_interval(successes, cell["trials"])
            rows.append(
                {**_target_columns(cell), "bound": name, "copies": " ".join(map(str, copies)), "delta": cell["delta"]}
                | {"trials": cell["trials"], "failures": cell["trials"] - successes}
                | {"failed": 1 - successes / cell["trials"], "low": 1 - high, "high": 1 - low}
                | {"exact": 1 - weak_ticket_probability(elements, copies, p)}
            )
    return rows


def width_rows(results: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return a row for each width cell: bound, exact and measured copies of an input."""
    rows = []
    for cell, result in results:
        p, scale = cell_densities(cell), float(width_factor(cell["p"]))
        rows.append(
            {**_target_columns(cell), "bound": result["bound"][0], "exact": exact_width(cell, p, cell["delta"])}
            | {"measured": result["every"][0], "from": result["every"][1], "to": result["every"][2]}
            | {"any_copy": result["any"][0], "any_from": result["any"][1], "any_to": result["any"][2]}
            | {"bound_multiple": result["bound"][0] / scale, "measured_multiple": result["every"][0] / scale}
            | {"any_multiple": result["any"][0] / scale}
        )
    return rows


def corrected_bound_metrics(rows: Sequence[dict[str, Any]], delta: float) -> dict[str, float]:
    """Return how the failure probability at the corrected bound compares to delta."""
    corrected = [row for row in rows if row["bound"] == "corrected"]
    return {
        "corrected bound: largest exact failure / delta": max(row["exact"] for row in corrected) / delta,
        "corrected bound: intervals wholly above delta": intervals_above_delta(corrected),
    }


def intervals_above_delta(rows: Sequence[dict[str, Any]]) -> float:
    """Return the number of rows whose confidence interval of the failure probability lies above delta."""
    return float(sum(row["low"] > row["delta"] for row in rows))


def plot_success(axes: Any, rows: Sequence[dict[str, Any]], bounds: dict[float, float]) -> None:
    """Plot the success probability over the width in units of 1/log(1/(1-p)).

    Lines are exact, points are measured, and dashed lines mark the width of the bound.
    """
    for number, p in enumerate(sorted({row["p"] for row in rows})):
        of_density, color = [row for row in rows if row["p"] == p], COLORS[number % len(COLORS)]
        x, measured = [row["multiple"] for row in of_density], [row["measured"] for row in of_density]
        intervals = [(row["low"], row["high"]) for row in of_density]
        plot_intervals(axes, x, measured, intervals, number, f"p = {p:g}")
        axes.plot(x, [row["exact"] for row in of_density], color=color, linewidth=1)
        axes.axvline(bounds[p], color=color, linestyle="--", linewidth=1)
    axes.plot([], [], color="#000000", linewidth=1, label="exact")
    axes.plot([], [], color="#000000", linewidth=1, linestyle="--", label="the bound's width")
    axes.set(
        xlabel="copies of an input, in units of 1/log(1/(1-p))", ylabel="draws that contain the ticket, 95 % interval"
    )
    axes.legend(fontsize=8, loc="upper left")


def plot_widths(axes: Any, rows: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], str]) -> None:
    """Plot the copies of an input over the density: the bound as a line, and measured points.

    For the first series a dotted line shows the bound with 1/p in place of 1/log(1/(1-p)).

    Args:
        axes: axes to plot on.
        rows: rows of `width_rows`.
        name: label of the series that a row belongs to.
    """
    for number, label in enumerate(dict.fromkeys(name(row) for row in rows)):
        series = [row for row in rows if name(row) == label]
        p, measured, look = [row["p"] for row in series], [row["measured"] for row in series], series_style(number)
        axes.plot(p, [row["bound"] for row in series], color=look["color"], label=f"{label}: the bound")
        plot_intervals(axes, p, measured, [(row["from"], row["to"] or row["measured"]) for row in series], number, "")
        axes.plot(p, [row["any_copy"] for row in series], linestyle="none", fillstyle="none", markersize=5, **look)
        if number == 0:
            near = [row["bound_multiple"] * float(width_factor_approximation(row["p"])) for row in series]
            axes.plot(p, near, color="#000000", linestyle=":", label=f"{label}: with 1/p for 1/log(1/(1-p))")
    black = {"linestyle": "none", "color": "#000000", "marker": "o", "markersize": 5}
    axes.plot([], [], label="measured, every copy whole, 95 % interval", **black)
    axes.plot([], [], label="measured, broken copies left out", fillstyle="none", **black)
    axes.set(xscale="log", yscale="log", xlabel="density p", ylabel="copies of an input")
    use_decimal_ticks(axes.xaxis, axes.yaxis)
    axes.legend(fontsize=8)
