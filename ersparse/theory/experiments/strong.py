"""Experiment on Theorem 2.2: strong tickets constructed from subset sums, at fractions of the corrected width."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ersparse.theory.error_tolerances import (
    TargetBounds,
    strong_copies,
    strong_copies_printed,
    target_bounds,
    tolerances,
)
from ersparse.theory.experiments import Cell, ExperimentOptions, Measurement, Result
from ersparse.theory.networks import affine_layers, max_output_difference, relu_chain
from ersparse.theory.plots import new_figure, plot_intervals, save_figure, series_style
from ersparse.theory.strong import strong_ticket
from ersparse.theory.strong_layers import ToleranceNotMet
from ersparse.theory.success_probability import wilson_interval
from ersparse.theory.tables import write_table
from ersparse.theory.widths import width_factor

SAMPLES = 4096  # random inputs from the box, in addition to its corners


def cells(options: ExperimentOptions) -> list[Cell]:
    """Return a cell for each target architecture, density and fraction of the corrected width."""
    densities = options.p or options.choose([0.6], [0.3, 0.6, 1.0], [0.2, 0.4, 0.7, 1.0])
    targets = options.choose([[2, 3, 1]], [[2, 3, 1], [2, 4, 4, 1]], [[2, 4, 1], [2, 6, 6, 1], [3, 6, 6, 6, 2]])
    fractions = options.choose([0.5, 1.0], [0.1, 0.2, 0.3, 0.4, 0.6, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0])
    trials = options.trials or options.choose(2, 10, 50)
    return [
        {"widths": widths, "p": float(p), "fraction": fraction, "delta": options.delta, "epsilon": options.epsilon}
        | {"trials": trials}
        for widths in targets
        for p in densities
        for fraction in fractions
    ]


def uniform_target(widths: list[int], random: np.random.Generator) -> nn.Sequential:
    """Draw a target with weights and biases from U[-1, 1], the range that Lemma 2.1 requires of z."""
    layers = [nn.Linear(d, n, dtype=torch.float64) for d, n in pairwise(widths)]
    for layer in layers:
        layer.weight.data = torch.from_numpy(random.uniform(-1, 1, tuple(layer.weight.shape)))
        layer.bias.data = torch.from_numpy(random.uniform(-1, 1, len(layer.bias)))
    return relu_chain(layers)


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """Construct tickets of random targets in random sources; an error is None if no copy is within its tolerance."""
    result: Result = {"errors": [], "certified": [], "kept": [], "copies": [], "printed": []}
    for _ in range(cell["trials"]):
        target = uniform_target(cell["widths"], random)
        bounds = target_bounds(affine_layers(target), -1, 1)
        _construct(cell, target, bounds, int(random.integers(2**62)), random, result)
    return result


def _construct(
    cell: Cell, target: nn.Sequential, bounds: TargetBounds, seed: int, random: np.random.Generator, result: Result
) -> None:
    """Construct one ticket and append its measurements to `result`."""
    p, epsilon, delta = [cell["p"]] * (bounds.depth + 1), cell["epsilon"], cell["delta"]
    corrected = strong_copies(bounds, p, epsilon, delta)
    copies = [max(1, round(q * cell["fraction"])) for q in corrected]
    result["copies"].append(copies)
    result["printed"].append(strong_copies_printed(bounds, p, epsilon, delta)[1] / corrected[1])
    try:
        ticket = strong_ticket(target, copies, p, seed, (-1.0, 1.0), tolerances(epsilon, bounds))
    except ToleranceNotMet:
        for key in ("errors", "certified", "kept"):
            result[key].append(None)
        return
    inputs = np.concatenate([_corners(bounds.widths[0]), random.uniform(-1, 1, (SAMPLES, bounds.widths[0]))])
    result["errors"].append(max_output_difference(target, ticket.network, torch.from_numpy(inputs)))
    result["certified"].append(ticket.certified)
    result["kept"].append(sum(int(mask.sum()) for mask in ticket.masks.values()))


def _corners(d: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the 2^d corners of the box [-1, 1]^d."""
    return np.array(np.meshgrid(*[[-1.0, 1.0]] * d)).reshape(d, -1).T


def report(options: ExperimentOptions, results: list[Measurement], folder: Path) -> dict[str, float]:
    """Write tickets.* and strong.png, and return the main metrics."""
    rows = [_row(cell, result) for cell, result in results]
    write_table(folder, "tickets", rows)
    _plot(options, results, rows, folder / "strong.png")
    full_width = [row for row in rows if row["fraction"] == 1]
    errors = [row["largest_error"] for row in rows if row["largest_error"] is not None]
    certified = max((row["largest_certified"] or 0 for row in rows), default=0.0)
    return {
        "tickets built": float(sum(row["built"] for row in rows)),
        "largest |f_T - f_S| / epsilon": max(errors, default=0.0) / options.epsilon,
        "at the corrected width, failures": float(sum(row["trials"] - row["successes"] for row in full_width)),
        "at the corrected width, tickets": float(sum(row["trials"] for row in full_width)),
        "largest certified / epsilon": certified / options.epsilon,
    }


def _row(cell: Cell, result: Result) -> dict[str, Any]:
    errors = [error for error in result["errors"] if error is not None]
    kept = [weights for weights in result["kept"] if weights is not None]
    successes = sum(error <= cell["epsilon"] for error in errors)
    low, high = wilson_interval(successes, cell["trials"])
    hidden_copies = float(np.median([q[1] for q in result["copies"]]))
    return {
        "widths": _widths(cell),
        "p": cell["p"],
        "fraction": cell["fraction"],
        "copies_0": float(np.median([q[0] for q in result["copies"]])),
        "copies_1": hidden_copies,
        "copies_1_multiple": hidden_copies / float(width_factor(cell["p"])) if cell["p"] < 1 else None,
        "trials": cell["trials"],
        "built": len(errors),
        "successes": successes,
        "share": successes / cell["trials"],
        "low": low,
        "high": high,
        "largest_error": max(errors, default=None),
        "largest_certified": max((bound for bound in result["certified"] if bound is not None), default=None),
        "median_weights": float(np.median(kept)) if kept else None,
        "printed_fraction": float(np.median(result["printed"])),
    }


def _widths(cell: Cell) -> str:
    return " ".join(map(str, cell["widths"]))


def _plot(options: ExperimentOptions, results: list[Measurement], rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the share of tickets within epsilon over the width on the left, and the errors of the tickets on the right.

    The points of different targets and densities are shifted horizontally so that they do not overlap.
    """
    figure, (left, right) = new_figure(2)
    for number, (widths, p) in enumerate(dict.fromkeys((row["widths"], row["p"]) for row in rows)):
        label, shift = f"{widths.replace(' ', '-')}, p = {p:g}", 0.008 * number
        _plot_share(left, [row for row in rows if (row["widths"], row["p"]) == (widths, p)], number, shift, label)
        points = [
            (cell["fraction"] + shift, error)
            for cell, result in results
            for error in result["errors"]
            if (_widths(cell), cell["p"]) == (widths, p) and error is not None
        ]
        if points:
            look = {"linestyle": "none", "markersize": 3, "alpha": 0.6, **series_style(number)}
            right.plot(*zip(*points, strict=True), label=label, **look)
    left.axvline(1, color="#000000", linestyle="--", linewidth=1, label="corrected width")
    left.plot([], [], color="#000000", linestyle=":", linewidth=1, label="printed width, C = 1")
    right.axhline(options.epsilon, color="#000000", linestyle="--", linewidth=1, label=f"ε = {options.epsilon:g}")
    for axes in (left, right):
        axes.set(xlim=(0, 1.1), xlabel="copies of each neuron, as a fraction of the corrected width")
    left.legend(fontsize=7, loc=(0.66, 0.1))
    right.legend(fontsize=7, loc="lower left")
    left.set(ylabel=f"tickets within ε = {options.epsilon:g}, 95 % interval", title="Strong tickets found")
    right.set(yscale="log", ylabel="max |f_T - f_S| on the box [-1, 1]^d", title="Errors of the tickets")
    save_figure(figure, path)


def _plot_share(axes: Any, rows: list[dict[str, Any]], number: int, shift: float, label: str) -> None:
    """Plot the success rates of one target and density, and its printed width as a vertical line."""
    x, share = [row["fraction"] + shift for row in rows], [row["share"] for row in rows]
    axes.plot(x, share, linewidth=0.7, **series_style(number))
    plot_intervals(axes, x, share, [(row["low"], row["high"]) for row in rows], number, label)
    if rows[0]["printed_fraction"] > 0:
        axes.axvline(rows[0]["printed_fraction"], linestyle=":", linewidth=1, color=series_style(number)["color"])
