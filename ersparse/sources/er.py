"""Erdős–Rényi sources whose layer densities are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption
from ersparse.config.sparsity_settings import SparsitySettings
from ersparse.errors import UserError
from ersparse.locate import locate, own_code
from ersparse.sparse.density import DensityError, expected_density, from_file
from ersparse.sparse.flow_repair import FlowError
from ersparse.sparse.layers import Layer
from ersparse.sparse.patterned_source import PatternedSource
from ersparse.sparse.patterns import checked_pattern
from ersparse.sparse.selection import Selection, spread
from ersparse.sparse.source import REPAIRS, ERSource, Source, TicketSource
from ersparse.storage.density_file import DensityFile, check_shapes

NONE: Mapping[str, float] = MappingProxyType({})
ROUNDING = 1e-9  # by which a density that was solved for may exceed 1


def nominal_density(option: SparsityOption, layers: list[Layer]) -> float:
    """Return the global density asked for, from `sparsity.level` or `sparsity.budget`.

    Raises:
        UserError: the budget does not lie between one weight a layer and all weights.
    """
    sparsity, total = option.settings, sum(layer.size for layer in layers)
    if sparsity.budget is not None and not len(layers) <= sparsity.budget <= total:
        raise UserError(
            f"sparsity.budget={sparsity.budget}: must lie in [{len(layers)}, {total}], from one weight a layer to all"
        )
    return 1 - sparsity.level if sparsity.budget is None else sparsity.budget / total


def source_from_density_function(settings: Settings, option: SparsityOption, layers: list[Layer]) -> Source:
    """Return an ER source with the densities that the option's function computes.

    Raises:
        UserError: no densities meet the budget, or the flow repair cannot.
    """
    own, arguments = own_densities(option, layers), option.arguments()
    if own and "first_dense" in arguments:
        arguments["first_dense"] = False
    where = f"sparsity={option.settings.name}"
    rule = partial(_checked, partial(option.settings.resolve(), **arguments), where)
    nominal = nominal_density(option, layers) if option.takes_density else None
    with own_code(where, option.settings.target):
        try:
            densities = _replaced(layers, rule(layers), own) if nominal is None else spread(rule, layers, nominal, own)
        except DensityError as error:
            raise UserError(f"{where}: {error}") from None
    return er_source(settings, layers, densities, expected_density(layers, densities) if nominal is None else nominal)


def selection_of(settings: SparsitySettings) -> Selection:
    """Return the selection of layers that the keys of `sparsity.` describe."""
    densities = settings.layers or {}
    return Selection(
        settings.include, settings.exclude, densities, settings.first_dense, settings.last_dense, "sparsity."
    )


def own_densities(option: SparsityOption, layers: list[Layer]) -> dict[str, float]:
    """Return the densities of layers that `sparsity.layers`, `first_dense` and `last_dense` give, by layer name.

    A rule that takes `first_dense`, as `uniform` does, keeps the first layer whole by itself if nothing else is given.
    """
    if "first_dense" in option.keys and not (option.settings.layers or option.settings.last_dense):
        return {}
    return selection_of(option.settings).own_densities(layers)


def _checked(rule: Callable[..., Any], where: str, layers: list[Layer], *density: float) -> list[float]:
    """Return what `rule` returns, as a list of numbers.

    Raises:
        UserError: it is not a density for each layer.
    """
    returned = rule(layers, *density)
    try:
        found = [float(value) for value in returned]
    except (TypeError, ValueError):
        raise UserError(f"{where}: returns {type(returned).__name__}, must return a density for each layer") from None
    if len(found) != len(layers):
        raise UserError(f"{where}: returns {len(found)} densities, must return one for each of {len(layers)} layers")
    for layer, value in zip(layers, found, strict=True):
        if not 0 <= value <= 1 + ROUNDING:
            raise UserError(f"{where}: returns the density {value:g} for {layer.name}, must lie in [0, 1]")
    return found


def _replaced(layers: list[Layer], densities: list[float], own: Mapping[str, float]) -> list[float]:
    return [own.get(layer.name, density) for layer, density in zip(layers, densities, strict=True)]


def source_from_user_file(
    settings: Settings, layers: list[Layer], file: DensityFile, own: Mapping[str, float]
) -> Source:
    """Return the source that `sparsity.file` describes, whose expected density is then the nominal one.

    Raises:
        UserError: the file describes another architecture, or a density is missing or out of range.
    """
    check_shapes(file, layers, settings.model.name)
    try:
        densities = _replaced(layers, from_file(layers, file.by_layer), own)
    except DensityError as error:
        raise UserError(f"sparsity.file={settings.sparsity.file}: {error}") from None
    return source_from_densities(settings, layers, file, expected_density(layers, densities), own)


def source_from_densities(
    settings: Settings, layers: list[Layer], file: DensityFile, nominal: float, own: Mapping[str, float] = NONE
) -> Source:
    """Return the masks of a density file if `sparsity.keep_mask` is set, else an ER source with its densities.

    Layers of `own` have the density that it gives by name.
    """
    sparsity = settings.sparsity
    if sparsity.keep_mask:
        masks = file.masks()
        masks |= {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers if layer.name in own}
        masks = {layer.name: masks[layer.name] for layer in layers}
        return TicketSource(layers, masks, settings.seed_of("mask"), sparsity.control, nominal)
    by_layer = file.by_layer | dict(own)
    return er_source(settings, layers, [by_layer[layer.name] for layer in layers], nominal)


def er_source(settings: Settings, layers: list[Layer], densities: list[float], nominal: float) -> ERSource:
    """Return an ER source that samples and repairs as `sparsity.sampling` and `sparsity.flow` say.

    Raises:
        UserError: the repair cannot be imported, or cannot meet a layer's density.
    """
    sparsity = settings.sparsity
    flow = sparsity.flow if sparsity.flow in REPAIRS else locate(sparsity.flow)
    arguments = (layers, densities, nominal, settings.seed_of("mask"), sparsity.sampling, flow)
    source = ERSource(*arguments)
    if sparsity.pattern is not None:
        source = PatternedSource(*arguments, pattern=checked_pattern(sparsity.pattern, layers, densities, "sparsity."))
    try:
        source.drawing_densities()
    except FlowError as error:
        raise UserError(f"sparsity.flow={sparsity.flow}: {error}") from None
    return source
