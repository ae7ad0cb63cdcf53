"""How often a construction succeeds: exactly where there is a closed form, and by simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, norm


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success probability; it never leaves [0, 1]."""
    z = norm.ppf((1 + confidence) / 2)
    share, weight = successes / trials, z**2 / trials
    middle, half = share + weight / 2, z * np.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return max(0.0, float((middle - half) / (1 + weight))), min(1.0, float((middle + half) / (1 + weight)))


def reached(n: ArrayLike, p: float, sets: ArrayLike) -> NDArray[np.float64]:
    """(1 - (1-p)^n)^sets: each of `sets` disjoint blocks of n possible edges has one that is kept."""
    n, sets = np.asarray(n, dtype=float), np.asarray(sets, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        no_edge = np.where(n > 0, np.exp(n * np.log1p(-p)), 1.0)
        return np.asarray(np.where(sets > 0, np.exp(sets * np.log1p(-no_edge)), 1.0))


def reached_through(n: int, p: float, onwards: float, sets: int) -> float:
    """E over k ~ Bin(n, p) of (1 - (1-onwards)^k)^sets: the blocks share which of their n neurons can be used.

    With sets = d and onwards = p it is the exact success of Theorem 2.7's network.
    """
    k = np.arange(n + 1)
    return float(binom.pmf(k, n, p) @ reached(k, onwards, sets))


def weak_success(needed: Sequence[NDArray[np.int64]], copies: Sequence[int], p: Sequence[float]) -> float:
    """Probability that every copy of every target neuron finds all its representatives.

    Args:
        needed: for each layer l = 1..L, the target weights to represent: [outputs, inputs], counting kernel elements.
        copies: q_0..q_L.
        p: densities p_0..p_L.
    """
    success = 1.0
    for sets in needed[0].sum(0) * copies[1]:  # the weights from one input share the neurons that copy it
        success *= reached_through(copies[0], p[0], p[1], int(sets))
    for layer in range(2, len(needed) + 1):
        sets = int(needed[layer - 1].sum()) * copies[layer]
        success *= float(reached(copies[layer - 1], p[layer], sets))
    return success


def simulate_weak(
    needed: Sequence[NDArray[np.int64]],
    copies: Sequence[int],
    p: Sequence[float],
    random: np.random.Generator,
    every_copy: bool = True,
) -> bool:
    """One drawn source: does it contain the weak ticket?

    Edges are drawn lazily: along the copies that a weight may come from, the first kept edge is at a geometric place,
    and no further one matters. A layer of 10^8 possible edges costs as many draws as its target has weights and copies.

    Args:
        every_copy: as the theorems ask; otherwise a copy that lacks a representative is left out, and the ticket
            exists while every output can be built from the copies that are whole.
    """
    usable: NDArray[np.int64] = np.asarray(random.binomial(copies[0], p[0], needed[0].shape[1]))
    for layer, elements in enumerate(needed, 1):
        whole = _whole_copies(elements, usable, copies[layer], p[layer], random)
        if every_copy and not whole.all():
            return False
        usable = whole.sum(1)
    return bool((usable > 0).all())


def _whole_copies(
    elements: NDArray[np.int64], usable: NDArray[np.int64], copies: int, p: float, random: np.random.Generator
) -> NDArray[np.bool_]:
    """[outputs, copies]: whether a copy has an edge to a usable copy of each input, for each kernel element."""
    places, (outputs, inputs) = int(elements.max(initial=0)), elements.shape
    whole = np.ones((outputs, copies), dtype=bool)
    for element in range(places):
        first = np.asarray(random.geometric(p, (outputs, copies, inputs)))
        whole &= ((first <= usable) | (elements <= element)[:, None, :]).all(2)
    return whole
