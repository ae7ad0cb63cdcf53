"""How well a strong ticket must approximate each parameter, and how many subset sums that takes (Theorem 2.2, A.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ersparse.theory.widths import Floats, check_layers, factor, in_interval, subset_sum_size

A, B = 5.5, 0.59
"""Constants of Lemma 2.1's bound, as measured: results/theory/lemma."""

LINEAR = 0.25
"""How often a neuron of layer 0 stays linear on [-1, 1]: P(b >= |w|) for w and b from U[-1, 1]."""


@dataclass(frozen=True)
class Shape:
    """What the widths of Theorem 2.2 need to know of a target.

    Attributes:
        widths: n_0 = d, n_1, ..., n_L.
        norms: for l = 1..L, the largest row sum of |W^(l)|: how much layer l enlarges an error.
        reach: for l = 0..L-1, B_l, the largest sum of |x^(l)| over the box, from above.
        highest: for l = 0..L-1, the largest |x^(l)_i| over the box by neuron, from above.
    """

    widths: list[int]
    norms: list[float]
    reach: list[float]
    highest: list[Floats]

    @property
    def depth(self) -> int:
        return len(self.norms)


def shape_of(weights: Sequence[NDArray[np.float64]], biases: Sequence[Floats], low: float, high: float) -> Shape:
    """Norms, and by interval arithmetic the ranges of the neurons for inputs in [low, high]^d."""
    inputs = weights[0].shape[1]
    bottom, top = np.full(inputs, float(low)), np.full(inputs, float(high))
    highest = [np.maximum(np.abs(bottom), np.abs(top))]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        bottom, top = np.maximum(up @ bottom + down @ top + bias, 0), np.maximum(up @ top + down @ bottom + bias, 0)
        highest.append(top)
    norms = [float(np.abs(weight).sum(1).max()) for weight in weights]
    return Shape([inputs, *map(len, weights)], norms, [float(x.sum()) for x in highest], highest)


def tolerances_printed(epsilon: float, shape: Shape) -> list[float]:
    """epsilon_1..epsilon_L of equation (3), its product ending at L-1. It does not suffice."""
    depth, slack = shape.depth, epsilon / shape.depth
    in_interval("epsilon", epsilon)
    return [
        slack
        / shape.widths[-1]
        / (
            (1 + shape.reach[layer - 1])
            * (1 + slack)
            * math.prod(norm + slack for norm in shape.norms[layer : depth - 1])
        )
        for layer in range(1, depth + 1)
    ]


def tolerances(epsilon: float, shape: Shape, gains: Sequence[float] | None = None) -> list[float]:
    """epsilon_1..epsilon_L that do: errors of at most these in every parameter change no output by more than epsilon.

    Layer l adds at most epsilon_l (1 + B_(l-1)), which the layers k above multiply by norm_k + n_(k-1) epsilon_k; the
    product runs to L, and the last term is kept below epsilon/L.

    Args:
        gains: in place of the target's norms, the largest row sums of |W| in the ticket. They are larger, as the
            copies of a neuron differ, and the weights of a subset sum may cancel where their errors do not.
    """
    in_interval("epsilon", epsilon)
    slack, gains = epsilon / shape.depth, shape.norms if gains is None else gains
    return [
        slack
        / max(
            shape.widths[layer - 1],
            (1 + shape.reach[layer - 1]) * math.prod(gain + slack for gain in gains[layer:]),
        )
        for layer in range(1, shape.depth + 1)
    ]


def subset_sums_printed(
    shape: Shape, p: Sequence[float], epsilon: float, delta: float, gamma: float = 0.0, constant: float = 1.0
) -> float:
    """rho of Theorem 2.2 as printed."""
    check_layers(shape.widths[1:], p)
    in_interval("delta", delta)
    scale = _targets(shape) * float(factor(min(p)))
    smallest = min(*tolerances_printed(epsilon, shape), delta)
    return float(constant * scale ** (1 + gamma) * math.log(1 / smallest))


def subset_sums_required(
    rho: float, shape: Shape, p: Sequence[float], epsilon: float, delta: float, constant: float = 1.0
) -> float:
    """What A.2 asks rho to be at least, with rho on both sides: C N / log(1/(1-p)) log(1/min(epsilon_l, delta/rho))."""
    smallest = min(*tolerances_printed(epsilon, shape), delta / rho)
    return constant * _targets(shape) * float(factor(min(p))) * math.log(1 / smallest)


def strong_copies_printed(
    shape: Shape, p: Sequence[float], epsilon: float, delta: float, gamma: float = 0.0, constant: float = 1.0
) -> list[float]:
    """n_(S,l)/n_(T,l) for l = 0..L of Theorem 2.2 as printed, not rounded; l = 0 has epsilon_1, l = L the output's."""
    rho, errors = subset_sums_printed(shape, p, epsilon, delta, gamma, constant), tolerances_printed(epsilon, shape)
    copies = [constant * float(factor(p[1])) * _log_tail(errors[0], delta, rho)]
    for layer in range(1, shape.depth):
        copies.append(constant * float(factor(p[layer + 1])) * _log_tail(errors[layer - 1], delta, rho))
    return [*copies, 1.0]


def strong_copies(
    shape: Shape, p: Sequence[float], epsilon: float, delta: float, a: float = A, b: float = B
) -> list[int]:
    """Copies of each neuron in layers 0..L that do, by Lemma 2.1 in the form that holds and a union bound.

    The base of the subset sums into layer l+1 lies in layer l, so epsilon_(l+1) and p_(l+1) decide its copies; the
    output layer has one copy. The number of subset sums, rho, and the errors that the copies allow follow from the
    copies: all are raised together until nothing changes. A neuron of layer 0 counts if its edge is there and it is
    linear, p_0 `LINEAR`; the products of two uniforms that it brings are counted as the lemma's uniforms.
    """
    check_layers(shape.widths[1:], p)
    copies, onwards = [1] * (shape.depth + 1), [LINEAR * p[0] * p[1], *p[2:]]
    while True:
        gains = [
            float(n * q) for n, q in zip(shape.widths[:-1], copies[:-1], strict=True)
        ]  # source weights are at most 1
        errors = tolerances(epsilon, shape, gains)
        share = delta / sum(
            n * q * (inputs + 1) for inputs, n, q in zip(shape.widths[:-1], shape.widths[1:], copies[1:], strict=True)
        )
        found = [int(subset_sum_size(onwards[layer], share, error, a, b)) for layer, error in enumerate(errors)] + [1]
        if found == copies:
            return copies
        copies = [max(pair) for pair in zip(found, copies, strict=True)]


def _log_tail(error: float, delta: float, rho: float) -> float:
    """log(1/min(error, delta/rho)), also at p = 1, where the printed rho is 0."""
    return -math.log(error if rho == 0 else min(error, delta / rho))


def _targets(shape: Shape) -> int:
    """N: all weights of the target. A.2 prints N_l = n_L n_(L-1) for n_l n_(l-1)."""
    return sum(n * inputs for inputs, n in zip(shape.widths[:-1], shape.widths[1:], strict=True))
