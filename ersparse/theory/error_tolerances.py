"""Error tolerance of each parameter of a strong ticket, and the widths that follow from it (Theorem 2.2, A.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ersparse.theory.networks import AffineLayer
from ersparse.theory.widths import Floats, check_densities, check_interval, subset_sum_size, width_factor

FITTED_A, FITTED_B = 5.5, 0.59
"""Constants a and b of the bound of Lemma 2.1, fitted in results/theory/lemma."""

LINEAR_PROBABILITY = 0.25
"""Probability that a neuron of layer 0 is linear on [-1, 1]: P(b >= |w|) for w and b from U[-1, 1]."""


@dataclass(frozen=True)
class TargetBounds:
    """Layer widths, norms and activation bounds of a target, from which the widths of Theorem 2.2 follow.

    Attributes:
        widths: n_0 = d, n_1, ..., n_L.
        norms: for l = 1..L, the largest row sum of |W^(l)|, the factor by which layer l amplifies an error.
        activation_sums: for l = 0..L-1, an upper bound B_l of the sum of |x^(l)| over the input box.
        activation_bounds: for l = 0..L-1, an upper bound of each |x^(l)_i| over the input box.
    """

    widths: list[int]
    norms: list[float]
    activation_sums: list[float]
    activation_bounds: list[Floats]

    @property
    def depth(self) -> int:
        """Return L, the number of layers of the target."""
        return len(self.norms)

    @property
    def weights(self) -> int:
        """Return N, the number of weights of the target; A.2 prints N_l = n_L n_(L-1) for n_l n_(l-1)."""
        return sum(n * inputs for inputs, n in zip(self.widths[:-1], self.widths[1:], strict=True))


def target_bounds(layers: Sequence[AffineLayer], low: float, high: float) -> TargetBounds:
    """Return the norms of linear layers, and activation bounds by interval arithmetic for inputs in [low, high]^d."""
    weights = [layer.weight.double().numpy() for layer in layers]
    biases = [layer.bias.double().numpy() for layer in layers]
    inputs = weights[0].shape[1]
    lower, upper = np.full(inputs, float(low)), np.full(inputs, float(high))
    bounds = [np.maximum(np.abs(lower), np.abs(upper))]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
        lower, upper = (
            np.maximum(positive @ lower + negative @ upper + bias, 0),
            np.maximum(positive @ upper + negative @ lower + bias, 0),
        )
        bounds.append(upper)
    norms = [float(np.abs(weight).sum(1).max()) for weight in weights]
    return TargetBounds([inputs, *map(len, weights)], norms, [float(x.sum()) for x in bounds], bounds)


def tolerances_printed(epsilon: float, target: TargetBounds) -> list[float]:
    """Return epsilon_1..epsilon_L of equation (3) as printed; its product ends at L-1, which does not suffice."""
    depth, slack = target.depth, epsilon / target.depth
    check_interval("epsilon", epsilon)
    return [
        slack
        / target.widths[-1]
        / (
            (1 + target.activation_sums[layer - 1])
            * (1 + slack)
            * math.prod(norm + slack for norm in target.norms[layer : depth - 1])
        )
        for layer in range(1, depth + 1)
    ]


def tolerances(epsilon: float, target: TargetBounds, gains: Sequence[float] | None = None) -> list[float]:
    """Return epsilon_1..epsilon_L as corrected.

    If every parameter of layer l has an error of at most epsilon_l, no output changes by more than epsilon. Layer l
    adds an error of at most epsilon_l (1 + B_(l-1)), and each layer k above multiplies it by norm_k +
    n_(k-1) epsilon_k. The product runs to L, and each n_(k-1) epsilon_k is kept below epsilon/L.

    Args:
        epsilon: error tolerance of the outputs, in (0, 1).
        target: widths, norms and activation bounds of the target.
        gains: for l = 1..L, the largest row sums of |W^(l)| in the ticket, in place of the target's norms. They are
            larger because the copies of a neuron differ: the weights of a subset sum may cancel, but their errors
            need not.
    """
    check_interval("epsilon", epsilon)
    slack, gains = epsilon / target.depth, target.norms if gains is None else gains
    return [
        slack
        / max(
            target.widths[layer - 1],
            (1 + target.activation_sums[layer - 1]) * math.prod(gain + slack for gain in gains[layer:]),
        )
        for layer in range(1, target.depth + 1)
    ]


def subset_sums_printed(
    target: TargetBounds, p: Sequence[float], epsilon: float, delta: float, gamma: float = 0.0, constant: float = 1.0
) -> float:
    """Return rho, the number of subset sums, of Theorem 2.2 as printed."""
    check_densities(target.widths[1:], p)
    check_interval("delta", delta)
    scale = target.weights * float(width_factor(min(p)))
    smallest = min(*tolerances_printed(epsilon, target), delta)
    return float(constant * scale ** (1 + gamma) * math.log(1 / smallest))


def subset_sums_required(
    rho: float, target: TargetBounds, p: Sequence[float], epsilon: float, delta: float, constant: float = 1.0
) -> float:
    """Return the lower bound that A.2 requires of rho: C N / log(1/(1-p)) log(1/min(epsilon_l, delta/rho)).

    The bound depends on rho itself, so the requirement is an implicit inequality.
    """
    smallest = min(*tolerances_printed(epsilon, target), delta / rho)
    return constant * target.weights * float(width_factor(min(p))) * math.log(1 / smallest)


def strong_copies_printed(
    target: TargetBounds, p: Sequence[float], epsilon: float, delta: float, gamma: float = 0.0, constant: float = 1.0
) -> list[float]:
    """Return n_(S,l)/n_(T,l) for l = 0..L of Theorem 2.2 as printed, not rounded.

    Layer 0 uses epsilon_1, and layer L has as many neurons as the target.
    """
    rho = subset_sums_printed(target, p, epsilon, delta, gamma, constant)
    errors = tolerances_printed(epsilon, target)
    copies = [constant * float(width_factor(p[1])) * _log_inverse_smaller(errors[0], delta, rho)]
    for density, error in zip(p[2:], errors[:-1], strict=True):
        copies.append(constant * float(width_factor(density)) * _log_inverse_smaller(error, delta, rho))
    return [*copies, 1.0]


def strong_copies(
    target: TargetBounds, p: Sequence[float], epsilon: float, delta: float, a: float = FITTED_A, b: float = FITTED_B
) -> list[int]:
    """Return the copies of each neuron in layers 0..L that suffice, by the corrected Lemma 2.1 and a union bound.

    The numbers whose subset sums form layer l+1 lie in layer l, so epsilon_(l+1) and p_(l+1) determine its copies; the
    output layer has one copy. The number of subset sums rho and the tolerances depend on the copies, so all are
    raised together until a fixed point is reached. A neuron of layer 0 is usable if its edge is kept and it is linear
    on the box, with probability p_0 `LINEAR_PROBABILITY`. The products of two uniforms that such neurons contribute
    are treated like the uniforms of the lemma.

    Args:
        target: widths, norms and activation bounds of the target.
        p: densities p_0..p_L.
        epsilon: error tolerance of the outputs.
        delta: failure probability.
        a: constant a of `subset_sum_size`.
        b: constant b of `subset_sum_size`.
    """
    check_densities(target.widths[1:], p)
    widths, copies = target.widths, [1] * (target.depth + 1)
    edge_densities = [LINEAR_PROBABILITY * p[0] * p[1], *p[2:]]
    while True:
        # Source weights are at most 1 in magnitude, so a row sum is at most the number of inputs.
        gains = [float(n * q) for n, q in zip(widths[:-1], copies[:-1], strict=True)]
        errors = tolerances(epsilon, target, gains)
        subset_sums = sum(
            n * q * (inputs + 1) for inputs, n, q in zip(widths[:-1], widths[1:], copies[1:], strict=True)
        )
        share = delta / subset_sums
        required = [
            int(subset_sum_size(edge_densities[layer], share, error, a, b)) for layer, error in enumerate(errors)
        ] + [1]
        if required == copies:
            return copies
        copies = [max(pair) for pair in zip(required, copies, strict=True)]


def _log_inverse_smaller(error: float, delta: float, rho: float) -> float:
    """Return log(1/min(error, delta/rho)), also at p = 1, where the printed rho is 0."""
    return -math.log(error if rho == 0 else min(error, delta / rho))
