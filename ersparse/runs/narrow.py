"""The width at which a dense network has as many weights as a sparse one, `sparsity=narrow`."""

from __future__ import annotations

import logging

import torch

from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption
from ersparse.errors import UserError
from ersparse.runs.network import SkipNormalInitialization, spec_of
from ersparse.sources.er import nominal_density
from ersparse.sparse.layers import Layer, prunable_layers

STEPS = 1024  # widths are multiples of 1 / STEPS
NOTED = 0.01  # relative difference of the numbers of weights that a line is printed about

log = logging.getLogger("ersparse")


def with_narrow_width(settings: Settings) -> Settings:
    """Return the settings of a dense network with as many weights as the sparse one that is asked for at width 1.

    Of the widths up to 1 that is taken whose number of prunable weights is nearest. Settings of another option, and
    those that this function has returned before, are returned as they are.

    Raises:
        UserError: `model.width` is another one, or the network takes no width.
    """
    if settings.sparsity.name != "narrow":
        return settings
    whole = _layers_at(settings, STEPS)
    asked = round(nominal_density(SparsityOption.of(settings.sparsity), whole) * sum(layer.size for layer in whole))
    low, high = 1, STEPS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _size(settings, middle) <= asked else (low, middle)
    best = min((low, high), key=lambda step: abs(_size(settings, step) - asked))
    if settings.model.width == 1:
        _note(settings, best, asked)
    elif settings.model.width != best / STEPS:
        raise UserError(f"model.width={settings.model.width}: must be 1 with sparsity=narrow, which sets it")
    return _at(settings, best)


def _note(settings: Settings, step: int, asked: int) -> None:
    """Print a line if no width has about as many weights."""
    if abs(found := _size(settings, step) - asked) > NOTED * asked:
        log.warning(f"sparsity=narrow: width {step / STEPS:g} has {asked + found:,} weights, asked for {asked:,}")


def _at(settings: Settings, step: int) -> Settings:
    return settings.model_copy(update={"model": settings.model.model_copy(update={"width": step / STEPS})})


def _layers_at(settings: Settings, step: int) -> list[Layer]:
    with torch.device("meta"), SkipNormalInitialization():
        return prunable_layers(spec_of(_at(settings, step)).build())


def _size(settings: Settings, step: int) -> int:
    return sum(layer.size for layer in _layers_at(settings, step))
