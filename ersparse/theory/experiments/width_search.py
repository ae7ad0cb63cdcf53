"""Width measurements shared by the experiments weak and conv: cells and their simulation.

The copies of all layers vary together in the proportions of the corrected bound: layer l has ceil(q_l k / q_0) copies,
and k is the width that is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ersparse.theory.bisection import smallest_integer
from ersparse.theory.experiments import Cell, Result
from ersparse.theory.success_probability import simulate_weak_ticket, weak_ticket_probability, wilson_interval
from ersparse.theory.widths import weak_copies, weak_copies_printed

Target = dict[str, Any]  # widths: [d, n_1, ..., n_L]; kernel: elements of each layer's kernel; no weight is zero


def kernel_elements(target: Target) -> list[NDArray[np.int64]]:
    """Return, for each layer, the kernel elements of a target without zeros: [outputs, inputs]."""
    widths = target["widths"]
    return [np.full((n, d), target["kernel"], dtype=np.int64) for d, n in pairwise(widths)]


def layer_densities(target: Target, p: float, p0: float) -> list[float]:
    """Return p_0..p_L: p0 for layer 0, p for the others."""
    return [p0] + [p] * (len(target["widths"]) - 1)


def cell_densities(cell: Cell) -> list[float]:
    """Return p_0..p_L of a cell."""
    return layer_densities(cell, cell["p"], cell["p0"])


def layer_sizes(target: Target) -> list[int]:
    """Return m_1..m_L, the number of weights of each layer."""
    return [int(elements.sum()) for elements in kernel_elements(target)]


def scaled_copies(copies: Sequence[int], first: int) -> list[int]:
    """Return `copies` scaled so that layer 0 has `first` copies, rounded up; the output layer keeps one copy."""
    return [max(1, -(-q * first // copies[0])) for q in copies[:-1]] + [1]


def measure(cell: Cell, random: np.random.Generator) -> Result:
    """Measure the smallest sufficient width or, for cells of another kind, the successes at given widths."""
    return measure_width(cell, random) if cell["kind"] == "width" else measure_successes(cell, random)


def measure_successes(cell: Cell, random: np.random.Generator) -> Result:
    """Count the draws that contain the ticket, for each width of the cell."""
    p = cell_densities(cell)
    return {"successes": [_count(cell, p, copies, True, cell["trials"], random) for copies in cell["copies"]]}


def measure_width(cell: Cell, random: np.random.Generator) -> Result:
    """Search for the smallest first-layer copies with a measured success probability of 1-delta.

    Returns:
        bound: the corrected bound q_0..q_L.
        every: if every copy must be complete, the smallest copies for which the measured success probability, the
            upper end and the lower end of its confidence interval reach 1-delta. The last is None if the trials are
            too few for the lower end to reach it.
        any: the same if incomplete copies are pruned.
    """
    bound = weak_copies(layer_sizes(cell), cell_densities(cell), cell["delta"])
    return {"bound": bound, "every": _search(cell, bound, True, random), "any": _search(cell, bound, False, random)}


def _search(cell: Cell, bound: list[int], every_copy: bool, random: np.random.Generator) -> list[int | None]:
    p, trials, aim = cell_densities(cell), cell["trials"], 1 - cell["delta"]

    @cache
    def success(first: int) -> tuple[float, float, float]:
        """Return the measured success probability, and the upper and the lower end of its interval."""
        successes = _count(cell, p, scaled_copies(bound, first), every_copy, trials, random)
        low, high = wilson_interval(successes, trials)
        return successes / trials, high, low

    point = smallest_integer(lambda first: success(first)[0] >= aim)
    upper = smallest_integer(lambda first: success(first)[1] >= aim)
    if wilson_interval(trials, trials)[0] < aim:
        return [point, upper, None]
    return [point, upper, smallest_integer(lambda first: success(first)[2] >= aim)]


def _count(
    cell: Cell, p: Sequence[float], copies: Sequence[int], every_copy: bool, trials: int, random: np.random.Generator
) -> int:
    elements = kernel_elements(cell)
    return sum(simulate_weak_ticket(elements, copies, p, random, every_copy) for _ in range(trials))


def exact_width(target: Target, p: list[float], delta: float) -> int:
    """Return the smallest first-layer copies with success probability 1-delta, by the closed form."""
    bound, elements = weak_copies(layer_sizes(target), p, delta), kernel_elements(target)
    return smallest_integer(
        lambda first: weak_ticket_probability(elements, scaled_copies(bound, first), p) >= 1 - delta
    )


def width_cell(target: Target, p: float, delta: float, trials: int) -> Cell:
    """Return a cell that searches for the smallest sufficient width."""
    return {"kind": "width", **target, "p": p, "p0": 1.0, "delta": delta, "trials": trials}


def bound_cell(target: Target, p: float, p0: float, delta: float, trials: int) -> Cell:
    """Return a cell that counts successes at the widths of the printed and of the corrected bound."""
    sizes, by_layer = layer_sizes(target), layer_densities(target, p, p0)
    copies = [weak_copies_printed(sizes, by_layer, delta), weak_copies(sizes, by_layer, delta)]
    cell = {"kind": "bound", **target, "p": p, "p0": p0, "delta": delta}
    return cell | {"names": ["printed", "corrected"], "copies": copies, "trials": trials}


def curve_cell(target: Target, p: float, delta: float, trials: int, points: int) -> Cell:
    """Return a cell that counts successes at widths from a success probability of 0.01 to the corrected bound."""
    by_layer, elements = layer_densities(target, p, 1.0), kernel_elements(target)
    bound = weak_copies(layer_sizes(target), by_layer, delta)
    low = smallest_integer(
        lambda first: weak_ticket_probability(elements, scaled_copies(bound, first), by_layer) >= 0.01
    )
    firsts = sorted({round(first) for first in np.linspace(low, bound[0], points)})
    copies = [scaled_copies(bound, first) for first in firsts]
    return {"kind": "curve", **target, "p": p, "p0": 1.0, "copies": copies, "trials": trials}
