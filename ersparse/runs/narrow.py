"""The width at which a dense network has as many weights as a sparse one, `sparsity=narrow`."""

from __future__ import annotations

import logging

import torch

from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption
from ersparse.runs.network import SkipNormalInitialization, spec_of
from ersparse.sources.er import nominal_density
from ersparse.sparse.layers import Layer, prunable_layers

STEPS = 1024  # widths are multiples of 1 / STEPS of the sparse network's
NOTED = 0.01  # relative difference of the numbers of weights that a line is printed about

log = logging.getLogger("ersparse")


def with_narrow_width(settings: Settings) -> Settings:
    """Return the settings of a dense network with as many weights as the sparse one that is asked for.

    Of the widths up to that of the sparse network, `model.width`, that is taken whose number of prunable weights is
    nearest; `model.narrowed_from` then has the other. Settings of another option, and those that have a
    `model.narrowed_from`, are returned as they are.

    Raises:
        UserError: the network takes no width.
    """
    if settings.sparsity.name != "narrow" or settings.model.narrowed_from is not None:
        return settings
    whole = _layers_at(settings, STEPS)
    asked = round(nominal_density(SparsityOption.of(settings.sparsity), whole) * sum(layer.size for layer in whole))
    low, high = 1, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _size(settings, middle) <= asked else (low, middle)
    best = min((low, high), key=lambda step: abs(_size(settings, step) - asked))
    found = _at(settings, best)
    if abs(more := _size(settings, best) - asked) > NOTED * asked:
        log.warning(f"sparsity=narrow: width {found.model.width:g} has {asked + more:,} weights, asked for {asked:,}")
    return found


def _at(settings: Settings, step: int) -> Settings:
    width = settings.model.width
    changes = {"width": width * step / STEPS, "narrowed_from": width}
    return settings.model_copy(update={"model": settings.model.model_copy(update=changes)})


def _layers_at(settings: Settings, step: int) -> list[Layer]:
    with torch.device("meta"), SkipNormalInitialization():
        return prunable_layers(spec_of(_at(settings, step)).build())


def _size(settings: Settings, step: int) -> int:
    return sum(layer.size for layer in _layers_at(settings, step))
