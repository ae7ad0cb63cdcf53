"""Layerwise densities: (layers, density p, options) -> one density per layer, in the order of the layers.

With N_l the size of layer l, every rule meets the global budget: sum(p_l N_l) = p sum(N_l), 0 < p_l <= 1.
A rule is one function; its option in conf/sparsity names it, and the keyword arguments that it takes are the keys of
`sparsity.` that apply to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ersparse.sparse.layers import Layer

Array = np.ndarray


class DensityError(ValueError):
    """No layer densities meet what was asked."""


def dense(layers: Sequence[Layer]) -> list[float]:
    """p_l = 1."""
    return [1.0] * len(layers)


def uniform(layers: Sequence[Layer], density: float, floor: float = 0, first_dense: bool = False) -> list[float]:
    """p_l = p; with `first_dense` the first layer keeps everything and the others share the rest evenly."""
    least = _least(layers, floor)
    if first_dense:
        least[0] = 1.0
    return fill(np.ones(len(layers)), layers, density, least)


def er(layers: Sequence[Layer], density: float, floor: float = 0) -> list[float]:
    """p_l in proportion to (n_in + n_out) / (n_in n_out), channels only (Mocanu et al. 2018)."""
    raw = [(layer.shape[0] + layer.shape[1]) / (layer.shape[0] * layer.shape[1]) for layer in layers]
    return fill(np.array(raw), layers, density, _least(layers, floor))


def erk(layers: Sequence[Layer], density: float, floor: float = 0) -> list[float]:
    """p_l in proportion to sum(shape) / prod(shape), the kernel included (Evci et al. 2020, RigL, section 3).

    The formula that the paper prints for convolutions is a slip; this is what its authors, and RigL's, compute.
    """
    raw = [sum(layer.shape) / layer.size for layer in layers]
    return fill(np.array(raw), layers, density, _least(layers, floor))


def balanced(layers: Sequence[Layer], density: float, floor: float = 0, redistribute: str = "exact") -> list[float]:
    """The same number of weights x in every layer: p_l = min(1, x / N_l) (section 2, *balanced*).

    redistribute="exact" raises x until the budget is spent; "none" fixes x = p sum(N) / L and drops what full layers
    cannot take, as the paper does.
    """
    sizes, least = _sizes(layers), _least(layers, floor)
    if redistribute == "exact":
        return fill(1 / sizes, layers, density, least)
    _check(density, sizes, least)
    share = density * sizes.sum() / len(layers)
    return [float(p) for p in np.clip(share / sizes, least, 1)]


def pyramidal(layers: Sequence[Layer], density: float, floor: float = 0) -> list[float]:
    """p_l = r^l for l = 1..L, with the one r in (0, 1] that meets the budget (section 2, *pyramidal*)."""
    from scipy.optimize import brentq  # takes half a second to import

    sizes, least = _sizes(layers), _least(layers, floor)
    _check(density, sizes, least)
    depth = np.arange(1, len(layers) + 1)

    def surplus(r: float) -> float:
        return float(np.maximum(r**depth, least) @ sizes / sizes.sum() - density)

    r = 1.0 if density == 1 else float(brentq(surplus, 0.0, 1.0, xtol=1e-300, rtol=8.9e-16, maxiter=1000))
    return [float(p) for p in np.maximum(r**depth, least)]


def from_file(layers: Sequence[Layer], file: Mapping[str, float]) -> list[float]:
    """The densities that `file` gives by layer name. They bring their own global density.

    Raises:
        DensityError: a layer is missing, is not one of the network's, or has a density outside [0, 1].
    """
    for layer in layers:
        if not 0 <= file.get(layer.name, -1) <= 1:
            raise DensityError(f"layer {layer.name}: density {file.get(layer.name, 'missing')}, must lie in [0, 1]")
    if extra := set(file) - {layer.name for layer in layers}:
        raise DensityError(f"layer {sorted(extra)[0]}: the network has no such layer")
    return [float(file[layer.name]) for layer in layers]


def expected_density(layers: Sequence[Layer], densities: Sequence[float]) -> float:
    """What the layer densities add up to: sum(p_l N_l) / sum(N_l)."""
    sizes = _sizes(layers)
    return float(np.array(densities) @ sizes / sizes.sum())


def fill(raw: Array, layers: Sequence[Layer], density: float, least: Array) -> list[float]:
    """p_l = clip(t raw_l, least_l, 1) with the t that meets the budget, exactly.

    The sum is piecewise linear and rising in t, with its corners where a layer leaves its lower bound or becomes dense:
    find the last corner that stays within the budget, then solve the one linear equation behind it.

    Args:
        raw: positive [L], the proportions asked for.
        density: global density p in (0, 1].
        least: lower bounds [L] in [0, 1].

    Raises:
        DensityError: the lower bounds alone exceed the budget.
    """
    sizes = _sizes(layers)
    _check(density, sizes, least)
    start, end = least / raw, 1 / raw
    corners = np.unique(np.concatenate([[0.0], start, end]))
    spent = np.clip(corners[:, None] * raw, least, 1) @ sizes
    budget = density * sizes.sum()
    t = corners[max(0, np.searchsorted(spent, budget, side="right") - 1)]  # rounding may put the budget just below
    moving = (start <= t) & (t < end)
    if moving.any():
        fixed = np.where(t < start, least, 1.0)[~moving] @ sizes[~moving]
        t = (budget - fixed) / (raw[moving] @ sizes[moving])
    return [float(p) for p in np.clip(t * raw, least, 1)]


def _sizes(layers: Sequence[Layer]) -> Array:
    return np.array([layer.size for layer in layers], dtype=np.float64)


def _least(layers: Sequence[Layer], floor: float) -> Array:
    """`floor` expected weights for each output channel, as densities."""
    return np.array([min(1.0, floor / layer.fan_in) for layer in layers])


def _check(density: float, sizes: Array, least: Array) -> None:
    if not 0 < density <= 1:
        raise DensityError(f"density {density}: must lie in (0, 1]")
    if least @ sizes > density * sizes.sum() * (1 + 1e-12):
        raise DensityError(
            f"{density * sizes.sum():.0f} weights cannot be spread: the lower bounds (floor, first_dense) "
            f"alone ask for {least @ sizes:.0f}"
        )
