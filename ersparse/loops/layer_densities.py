"""The density of each layer: by a rule or a pruner by name, by a function, or as given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from ersparse.config.options import options_of, with_defaults
from ersparse.errors import UserError
from ersparse.locate import locate
from ersparse.loops.pruners import PRUNERS, pruner_masks
from ersparse.sparse import density as densities
from ersparse.sparse.layers import Layer
from ersparse.sparse.selection import Selection, spread

DensityFunction = Callable[..., list[float]]


def layer_densities(
    layers: list[Layer],
    density: str | DensityFunction | Mapping[str, float],
    level: float,
    budget: int | None,
    options: dict[str, Any],
    selection: Selection,
) -> tuple[float, list[float]]:
    """Return the nominal global density, and the density of each layer.

    Raises:
        UserError: `level`, `budget` or an option is not allowed.
        DensityError: the rule cannot meet the budget, or returns densities that are not valid.
    """
    if not (isinstance(level, (int, float)) and 0 <= level < 1):
        raise UserError(f"level={level}: must lie in [0, 1), as a number")
    total = sum(layer.size for layer in layers)
    if budget is not None and not (isinstance(budget, int) and len(layers) <= budget <= total):
        raise UserError(
            f"budget={budget}: must lie in [{len(layers)}, {total}], from one weight a layer to all, as an integer"
        )
    if not (isinstance(density, str | Mapping) or callable(density)):
        raise UserError(f"density={density}: must be a name, a function, or a mapping from parameter name to density")
    rule: DensityFunction = _density_function(density) if isinstance(density, str) else density  # type: ignore[assignment]
    if isinstance(density, Mapping):
        rule = partial(densities.from_file, file=density)
    takes = list(inspect.signature(rule).parameters)[1:]
    if unknown := sorted(set(options) - set(takes)):
        raise UserError(f"{unknown[0]}={options[unknown[0]]}: density={name_of(density)} has no such option")
    own = selection.own_densities(layers)
    if "density" not in takes:  # the rule defines the global density
        by_layer = [own.get(layer.name, p) for layer, p in zip(layers, rule(layers, **options), strict=True)]
        return densities.expected_density(layers, _checked(layers, by_layer)), by_layer
    nominal = 1 - level if budget is None else budget / total
    return nominal, _checked(layers, spread(partial(rule, **options), layers, nominal, own))


def pruner_densities(
    module: nn.Module, name: str, examples: Any, options: Mapping[str, Any], layers: list[Layer], density: float
) -> list[float]:
    """Return the density of each layer in the masks of a pruner."""
    count, among = round(density * sum(layer.size for layer in layers)), [layer.name for layer in layers]
    masks = pruner_masks(module, name, count, examples, {**options, "among": among})
    return [int(masks[layer.name].sum()) / layer.size for layer in layers]


def _checked(layers: list[Layer], by_layer: list[float]) -> list[float]:
    """Return densities unchanged after checking their number and range."""
    if len(by_layer) != len(layers):
        raise densities.DensityError(f"returned {len(by_layer)} densities for {len(layers)} layers")
    for layer, density in zip(layers, by_layer, strict=True):
        if not 0 <= density <= 1:
            raise densities.DensityError(f"layer {layer.name}: density {density}, must lie in [0, 1]")
    return by_layer


def _density_function(name: str) -> DensityFunction:
    """Return the function that the option `name` of conf/sparsity names, if it computes densities from layers alone."""
    if name not in options_of("sparsity") or not (function := _computes_densities(name)):
        allowed = [option for option in options_of("sparsity") if _computes_densities(option)] + list(PRUNERS)
        raise UserError(f"density={name}: must be one of {', '.join(allowed)}")
    return function


def _computes_densities(option: str) -> DensityFunction | None:
    function: DensityFunction = locate(with_defaults("sparsity", option)["_target_"])
    parameters = inspect.signature(function).parameters
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    if option == "narrow":  # its densities follow from the width, which a module has already
        return None
    return function if "layers" in needed <= {"layers", "density"} else None


def name_of(density: str | DensityFunction | Mapping[str, float]) -> str:
    """Return what error messages call a density."""
    return density if isinstance(density, str) else getattr(density, "__name__", "the densities given")
