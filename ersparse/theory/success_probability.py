"""Success probability of the constructions: closed forms where they exist, and Monte Carlo simulation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, binomtest


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of a success probability; it lies within [0, 1]."""
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def connection_probability(n: ArrayLike, p: float, blocks: ArrayLike) -> NDArray[np.float64]:
    """Return (1 - (1-p)^n)^blocks, the probability that each of several disjoint blocks keeps at least one edge.

    Args:
        n: possible edges of a block; 0 is allowed.
        p: density in (0, 1], the probability that an edge is kept.
        blocks: number of blocks; 0 is allowed.
    """
    n, blocks = np.asarray(n, dtype=float), np.asarray(blocks, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        no_edge = np.where(n > 0, np.exp(n * np.log1p(-p)), 1.0)
        return np.asarray(np.where(blocks > 0, np.exp(blocks * np.log1p(-no_edge)), 1.0))


def two_hop_connection_probability(n: int, p_first: float, p_second: float, blocks: int) -> float:
    """Return the probability that all blocks are connected through the same n neurons.

    A neuron is usable with probability `p_first`, and each block then has an edge to each usable neuron with
    probability `p_second`: E over k ~ Bin(n, p_first) of (1 - (1-p_second)^k)^blocks. With blocks = d and
    p_first = p_second = p, this is the exact success probability of the network in Theorem 2.7.
    """
    k = np.arange(n + 1)
    return float(binom.pmf(k, n, p_first) @ connection_probability(k, p_second, blocks))


def weak_ticket_probability(elements: Sequence[NDArray[np.int64]], copies: Sequence[int], p: Sequence[float]) -> float:
    """Return the probability that a drawn source network contains the weak ticket, with every copy complete.

    Args:
        elements: for each layer l = 1..L, the nonzero kernel elements of the target, [outputs, inputs].
        copies: q_0..q_L, copies of each target neuron.
        p: densities p_0..p_L.
    """
    success = 1.0
    for blocks in elements[0].sum(0) * copies[1]:  # all weights of one input share the neurons that copy this input
        success *= two_hop_connection_probability(copies[0], p[0], p[1], int(blocks))
    for layer in range(2, len(elements) + 1):
        blocks = int(elements[layer - 1].sum()) * copies[layer]
        success *= float(connection_probability(copies[layer - 1], p[layer], blocks))
    return success


def simulate_weak_ticket(
    elements: Sequence[NDArray[np.int64]],
    copies: Sequence[int],
    p: Sequence[float],
    random: np.random.Generator,
    every_copy: bool = True,
) -> bool:
    """Draw one source network and return whether it contains the weak ticket.

    Edges are drawn lazily: among the copies that may represent a target weight, the position of the first kept edge is
    geometrically distributed, and further edges are not needed. The number of draws is the number of target weights
    times copies, even for a layer of 10^8 possible edges.

    Args:
        elements: for each layer l = 1..L, the nonzero kernel elements of the target, [outputs, inputs].
        copies: q_0..q_L, copies of each target neuron.
        p: densities p_0..p_L.
        random: generator of the draws.
        every_copy: whether every copy must be complete, as in the theorems. Otherwise incomplete copies are pruned,
            and the ticket exists if every output can be built from complete copies.
    """
    usable: NDArray[np.int64] = np.asarray(random.binomial(copies[0], p[0], elements[0].shape[1]))
    for layer, layer_elements in enumerate(elements, 1):
        complete = _complete_copies(layer_elements, usable, copies[layer], p[layer], random)
        if every_copy and not complete.all():
            return False
        usable = complete.sum(1)
    return bool((usable > 0).all())


def _complete_copies(
    elements: NDArray[np.int64], usable: NDArray[np.int64], copies: int, p: float, random: np.random.Generator
) -> NDArray[np.bool_]:
    """Return [outputs, copies]: whether a copy has an edge to a usable copy of each input, for each kernel element."""
    kernel_size, (outputs, inputs) = int(elements.max(initial=0)), elements.shape
    complete = np.ones((outputs, copies), dtype=bool)
    for element in range(kernel_size):
        first_edge = np.asarray(random.geometric(p, (outputs, copies, inputs)))
        complete &= ((first_edge <= usable) | (elements <= element)[:, None, :]).all(2)
    return complete
