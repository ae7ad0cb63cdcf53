"""Optimizers: functions from parameters and settings to a torch optimizer. Options of conf/optimizer name them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ersparse.config.schema import OptimizerSettings


def sgd(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return SGD with momentum, Nesterov's if `optimizer.nesterov` is set."""
    return torch.optim.SGD(
        parameters,
        settings.lr,
        settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


def adam(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Return Adam (Kingma & Ba 2015) with PyTorch's default betas."""
    return torch.optim.Adam(parameters, settings.lr, weight_decay=settings.weight_decay, fused=True)
