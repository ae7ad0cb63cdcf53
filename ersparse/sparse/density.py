"""Layer density rules: (layers, density p, options) -> one density p_l per layer, in the order of the layers.

With N_l the size of layer l, a rule meets the global budget sum(p_l N_l) = p sum(N_l), with 0 < p_l <= 1. Exceptions
are `dense`, `from_file`, which has a global density of its own, and `balanced` with redistribute="none".
A rule is one function. Its option in conf/sparsity names the function, and the keyword arguments that the function
takes are the keys of `sparsity.` that apply to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ersparse.sparse.layers import Layer

Array = np.ndarray


class DensityError(ValueError):
    """No layer densities meet the budget and the bounds."""


def dense(layers: Sequence[Layer]) -> list[float]:
    """Return p_l = 1 for every layer."""
    return [1.0] * len(layers)


def narrow(layers: Sequence[Layer], density: float) -> list[float]:
    """Return p_l = 1 for every layer of a dense network whose width was chosen for a number of weights.

    Args:
        layers: prunable layers, in network order.
        density: density of the network of width 1 with as many weights, by which the width was chosen.
    """
    return [1.0] * len(layers)


def uniform(layers: Sequence[Layer], density: float, floor: float = 0, first_dense: bool = False) -> list[float]:
    """Return p_l = p for every layer.

    Args:
        layers: prunable layers, in network order.
        density: global density p in (0, 1].
        floor: lower bound on the expected weights of each output channel.
        first_dense: whether the first layer stays dense, and the others share the rest of the budget evenly.

    Raises:
        DensityError: the density is out of range, or the lower bounds exceed the budget.
    """
    lower = _lower_bounds(layers, floor)
    if first_dense:
        lower[0] = 1.0
    return fill(np.ones(len(layers)), layers, density, lower)


def er(layers: Sequence[Layer], density: float, floor: float = 0) -> list[float]:
    """Return p_l proportional to (n_in + n_out) / (n_in n_out), without the kernel (Mocanu et al. 2018).

    Args:
        layers: prunable layers, in network order.
        density: global density p in (0, 1].
        floor: lower bound on the expected weights of each output channel.

    Raises:
        DensityError: the density is out of range, or the lower bounds exceed the budget.
    """
    shapes = [layer.rows_shape for layer in layers]
    raw = [(shape[0] + shape[1]) / (shape[0] * shape[1]) for shape in shapes]
    return fill(np.array(raw), layers, density, _lower_bounds(layers, floor))


def erk(layers: Sequence[Layer], density: float, floor: float = 0) -> list[float]:
    """Return p_l proportional to sum(shape) / prod(shape): Erdős–Rényi-Kernel (Evci et al. 2020, section 3).

    The ratio that Gadhikar et al. 2023 print for convolutions (section 3) is a typographical error; their released
    code computes this one.

    Args:
        layers: prunable layers, in network order.
        density: global density p in (0, 1].
        floor: lower bound on the expected weights of each output channel.

    Raises:
        DensityError: the density is out of range, or the lower bounds exceed the budget.
    """
    raw = [sum(layer.rows_shape) / layer.size for layer in layers]
    return fill(np.array(raw), layers, density, _lower_bounds(layers, floor))


def balanced(layers: Sequence[Layer], density: float, floor: float = 0, redistribute: str = "exact") -> list[float]:
    """Return p_l = min(1, x / N_l): the same number of weights x in every layer (section 3, *Balanced*).

    Args:
        layers: prunable layers, in network order.
        density: global density p in (0, 1].
        floor: lower bound on the expected weights of each output channel.
        redistribute: "exact" raises x until the budget is spent; "none" fixes x = p sum(N) / L as the paper does, so
            that what layers with N_l < x cannot take is lost.

    Raises:
        DensityError: the density is out of range, or the lower bounds exceed the budget.
    """
    sizes, lower = _sizes(layers), _lower_bounds(layers, floor)
    if redistribute == "exact":
        return fill(1 / sizes, layers, density, lower)
    _check_budget(density, sizes, lower)
    per_layer = density * sizes.sum() / len(layers)
    return [float(p) for p in np.clip(per_layer / sizes, lower, 1)]


def pyramidal(layers: Sequence[Layer], density: float, floor: float = 0) -> list[float]:
    """Return p_l = r^l for l = 1..L, with the r in (0, 1] that meets the budget (section 3, *Pyramidal*).

    Args:
        layers: prunable layers, in network order.
        density: global density p in (0, 1].
        floor: lower bound on the expected weights of each output channel.

    Raises:
        DensityError: the density is out of range, or the lower bounds exceed the budget.
    """
    from scipy.optimize import brentq  # takes half a second to import

    sizes, lower = _sizes(layers), _lower_bounds(layers, floor)
    _check_budget(density, sizes, lower)
    depth = np.arange(1, len(layers) + 1)

    def surplus(r: float) -> float:
        return float(np.maximum(r**depth, lower) @ sizes / sizes.sum() - density)

    r = 1.0 if density == 1 else float(brentq(surplus, 0.0, 1.0, xtol=1e-300, rtol=8.9e-16, maxiter=1000))
    return [float(p) for p in np.maximum(r**depth, lower)]


def from_file(layers: Sequence[Layer], file: Mapping[str, float]) -> list[float]:
    """Return the densities that `file` gives by layer name; they define the global density.

    Raises:
        DensityError: a layer is missing, unknown, or has a density outside [0, 1].
    """
    for layer in layers:
        if not 0 <= file.get(layer.name, -1) <= 1:
            raise DensityError(f"layer {layer.name}: density {file.get(layer.name, 'missing')}, must lie in [0, 1]")
    if extra := set(file) - {layer.name for layer in layers}:
        raise DensityError(f"layer {sorted(extra)[0]}: the network has no such layer")
    return [float(file[layer.name]) for layer in layers]


def expected_density(layers: Sequence[Layer], densities: Sequence[float]) -> float:
    """Return the expected global density, sum(p_l N_l) / sum(N_l) (section 2, *ER networks*)."""
    sizes = _sizes(layers)
    return float(np.array(densities) @ sizes / sizes.sum())


def fill(raw: Array, layers: Sequence[Layer], density: float, lower: Array) -> list[float]:
    """Return p_l = clip(t raw_l, lower_l, 1) with the t that meets the budget exactly (water-filling).

    The number of weights is piecewise linear and increasing in t. It has a breakpoint where a layer leaves its lower
    bound, and one where a layer becomes dense. The last breakpoint within the budget determines which layers still
    depend on t, and one linear equation gives t.

    Args:
        raw: positive proportions [L].
        layers: prunable layers, in network order.
        density: global density p in (0, 1].
        lower: lower bounds [L] in [0, 1].

    Raises:
        DensityError: the density is out of range, or the lower bounds exceed the budget.
    """
    sizes = _sizes(layers)
    _check_budget(density, sizes, lower)
    start, end = lower / raw, 1 / raw
    breakpoints = np.unique(np.concatenate([[0.0], start, end]))
    spent = np.clip(breakpoints[:, None] * raw, lower, 1) @ sizes
    budget = density * sizes.sum()
    t = breakpoints[max(0, np.searchsorted(spent, budget, side="right") - 1)]  # rounding may put the budget just below
    moving = (start <= t) & (t < end)
    if moving.any():
        fixed = np.where(t < start, lower, 1.0)[~moving] @ sizes[~moving]
        t = (budget - fixed) / (raw[moving] @ sizes[moving])
    return [float(p) for p in np.clip(t * raw, lower, 1)]


def _sizes(layers: Sequence[Layer]) -> Array:
    return np.array([layer.size for layer in layers], dtype=np.float64)


def _lower_bounds(layers: Sequence[Layer], floor: float) -> Array:
    """Return the densities [L] at which each output channel expects `floor` weights."""
    return np.array([min(1.0, floor / layer.fan_in) for layer in layers])


def _check_budget(density: float, sizes: Array, lower: Array) -> None:
    """Check that the density lies in (0, 1] and that the lower bounds fit into the budget.

    Raises:
        DensityError: they do not.
    """
    if not 0 < density <= 1:
        raise DensityError(f"density {density}: must lie in (0, 1]")
    if lower @ sizes > density * sizes.sum() * (1 + 1e-12):
        raise DensityError(
            f"{density * sizes.sum():.0f} weights cannot be spread over the layers: the lower bounds (floor, "
            f"first_dense) need {lower @ sizes:.0f}"
        )
