"""Theorem 2.2: strong tickets built from subset sums, at fractions of the width that is enough."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ersparse.theory.error_tolerances import Shape, shape_of, strong_copies, strong_copies_printed, tolerances
from ersparse.theory.experiments import Cell, Options, Result
from ersparse.theory.networks import chain, largest_difference, stages_of
from ersparse.theory.plots import new_figure, points, save, style
from ersparse.theory.strong import NotReached, strong_ticket
from ersparse.theory.success_probability import wilson
from ersparse.theory.tables import write_table
from ersparse.theory.widths import factor

SAMPLES = 4096  # inputs in the box, beside its corners


def cells(options: Options) -> list[Cell]:
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
    """A target whose weights and biases are from U[-1, 1], as Lemma 2.1 asks of z."""
    layers = [nn.Linear(d, n, dtype=torch.float64) for d, n in pairwise(widths)]
    for layer in layers:
        layer.weight.data = torch.from_numpy(random.uniform(-1, 1, tuple(layer.weight.shape)))
        layer.bias.data = torch.from_numpy(random.uniform(-1, 1, len(layer.bias)))
    return chain(layers)


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """Tickets for random targets in random sources; an error is None where a neuron has no copy that is near enough."""
    found: Result = {"errors": [], "certified": [], "kept": [], "copies": [], "printed": []}
    for _ in range(cell["trials"]):
        target = uniform_target(cell["widths"], random)
        stages = stages_of(target)
        shape = shape_of([s.weight.numpy() for s in stages], [s.bias.numpy() for s in stages], -1, 1)
        _one(cell, target, shape, int(random.integers(2**62)), random, found)
    return found


def _one(
    cell: Cell, target: nn.Sequential, shape: Shape, seed: int, random: np.random.Generator, found: Result
) -> None:
    p, epsilon, delta = [cell["p"]] * (shape.depth + 1), cell["epsilon"], cell["delta"]
    enough = strong_copies(shape, p, epsilon, delta)
    copies = [max(1, round(q * cell["fraction"])) for q in enough]
    found["copies"].append(copies)
    found["printed"].append(strong_copies_printed(shape, p, epsilon, delta)[1] / enough[1])
    try:
        ticket = strong_ticket(target, copies, p, seed, (-1.0, 1.0), tolerances(epsilon, shape))
    except NotReached:
        for key in ("errors", "certified", "kept"):
            found[key].append(None)
        return
    inputs = np.concatenate([_corners(shape.widths[0]), random.uniform(-1, 1, (SAMPLES, shape.widths[0]))])
    found["errors"].append(largest_difference(target, ticket.network, torch.from_numpy(inputs)))
    found["certified"].append(ticket.certified)
    found["kept"].append(sum(int(mask.sum()) for mask in ticket.masks.values()))


def _corners(d: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(np.meshgrid(*[[-1.0, 1.0]] * d)).reshape(d, -1).T


def report(options: Options, results: list[tuple[Cell, Result]], folder: Path) -> dict[str, float]:
    """tickets.* and strong.png."""
    rows = [_row(cell, result) for cell, result in results]
    write_table(folder, "tickets", rows)
    _plot(options, results, rows, folder / "strong.png")
    whole = [row for row in rows if row["fraction"] == 1]
    built = [row["largest_error"] for row in rows if row["largest_error"] is not None]
    return {
        "tickets built": float(sum(row["built"] for row in rows)),
        "largest |f_T - f_S| / epsilon": max(built, default=0.0) / options.epsilon,
        "at the corrected width, failures": float(sum(row["trials"] - row["successes"] for row in whole)),
        "at the corrected width, tickets": float(sum(row["trials"] for row in whole)),
        "largest certified / epsilon": max((row["largest_certified"] or 0 for row in rows), default=0.0)
        / options.epsilon,
    }


def _row(cell: Cell, result: Result) -> dict[str, Any]:
    built = [error for error in result["errors"] if error is not None]
    successes = sum(error <= cell["epsilon"] for error in built)
    low, high = wilson(successes, cell["trials"])
    hidden, kept = float(np.median([q[1] for q in result["copies"]])), [k for k in result["kept"] if k is not None]
    return {
        "widths": " ".join(map(str, cell["widths"])),
        "p": cell["p"],
        "fraction": cell["fraction"],
        "copies_0": float(np.median([q[0] for q in result["copies"]])),
        "copies_1": hidden,
        "copies_1_multiple": hidden / float(factor(cell["p"])) if cell["p"] < 1 else None,
        "trials": cell["trials"],
        "built": len(built),
        "successes": successes,
        "share": successes / cell["trials"],
        "low": low,
        "high": high,
        "largest_error": max(built, default=None),
        "largest_certified": max((c for c in result["certified"] if c is not None), default=None),
        "median_weights": float(np.median(kept)) if kept else None,
        "printed_fraction": float(np.median(result["printed"])),
    }


def _plot(options: Options, results: list[tuple[Cell, Result]], rows: list[dict[str, Any]], path: Path) -> None:
    """Left: tickets within epsilon over the width. Right: their errors."""
    figure, (left, right) = new_figure(2)
    for number, case in enumerate(dict.fromkeys((row["widths"], row["p"]) for row in rows)):
        mine = [row for row in rows if (row["widths"], row["p"]) == case]
        label, x = f"{case[0].replace(' ', '-')}, p = {case[1]:g}", [row["fraction"] + 0.008 * number for row in mine]
        intervals = [(row["low"], row["high"]) for row in mine]
        left.plot(x, [row["share"] for row in mine], linewidth=0.7, **style(number))
        points(left, x, [row["share"] for row in mine], intervals, number, label)
        if mine[0]["printed_fraction"] > 0:
            left.axvline(mine[0]["printed_fraction"], linestyle=":", linewidth=1, color=style(number)["color"])
        pairs = [
            (cell["fraction"] + 0.008 * number, error)
            for cell, result in results
            for error in result["errors"]
            if (" ".join(map(str, cell["widths"])), cell["p"]) == case and error is not None
        ]
        if pairs:
            right.plot(
                *zip(*pairs, strict=True), linestyle="none", markersize=3, alpha=0.6, label=label, **style(number)
            )
    left.axvline(1, color="#000000", linestyle="--", linewidth=1, label="corrected width")
    left.plot([], [], color="#000000", linestyle=":", linewidth=1, label="printed width, C = 1")
    right.axhline(options.epsilon, color="#000000", linestyle="--", linewidth=1, label=f"ε = {options.epsilon:g}")
    for axes in (left, right):
        axes.set(xlim=(0, 1.1), xlabel="copies of each neuron, as a fraction of the corrected width")
    left.legend(fontsize=7, loc=(0.66, 0.1))
    right.legend(fontsize=7, loc="lower left")
    left.set(ylabel=f"tickets within ε = {options.epsilon:g}, 95 % interval", title="Strong tickets found")
    right.set(yscale="log", ylabel="max |f_T - f_S| on the box [-1, 1]^d", title="Errors of the tickets")
    save(figure, path)
