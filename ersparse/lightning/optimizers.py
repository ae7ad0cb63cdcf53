"""Optimizers: functions from parameters and settings to a torch optimizer. Options of conf/optimizer name them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ersparse.config.schema import OptimizerSettings
from ersparse.errors import UserError
from ersparse.lightning.lion import Lion

SHARED_KEYS = ("lr", "momentum", "weight_decay", "nesterov")  # that an optimizer class gets if it takes them
ELEMENTWISE = ("SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "Adagrad", "Adadelta", "ASGD")


def sgd(parameters: Iterable[Any], settings: OptimizerSettings, **args: Any) -> Optimizer:
    """Return SGD with momentum, Nesterov's if `optimizer.nesterov` is set."""
    options = {"weight_decay": settings.weight_decay, "nesterov": settings.nesterov, "fused": True}
    return torch.optim.SGD(parameters, settings.lr, settings.momentum, **options | args)


def adam(parameters: Iterable[Any], settings: OptimizerSettings, **args: Any) -> Optimizer:
    """Return Adam (Kingma & Ba 2015) with PyTorch's default betas."""
    return torch.optim.Adam(parameters, settings.lr, **{"weight_decay": settings.weight_decay, "fused": True} | args)


def adamw(parameters: Iterable[Any], settings: OptimizerSettings, **args: Any) -> Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019): Adam with decoupled weight decay."""
    return torch.optim.AdamW(parameters, settings.lr, **{"weight_decay": settings.weight_decay, "fused": True} | args)


def lion(parameters: Iterable[Any], settings: OptimizerSettings, **args: Any) -> Optimizer:
    """Return Lion (Chen et al. 2023)."""
    return Lion(parameters, settings.lr, **{"weight_decay": settings.weight_decay} | args)


def make_optimizer(parameters: Iterable[Any], settings: OptimizerSettings) -> Optimizer:
    """Return the optimizer that the settings name.

    `_target_` names a function `(parameters, settings, …)` or a subclass of `torch.optim.Optimizer`. A class gets those
    of `SHARED_KEYS` that its constructor takes. Keys of the option that are no fields, and `optimizer.args`, are passed
    as keyword arguments.

    Args:
        parameters: parameters, or groups of them as torch optimizers take them.
        settings: the settings of the optimizer.
    """
    kind, further = settings.resolve(), settings.own_keys() | dict(settings.args or {})
    if isinstance(kind, type) and issubclass(kind, Optimizer):
        takes = inspect.signature(kind).parameters
        shared = {key: getattr(settings, key) for key in SHARED_KEYS if key in takes}
        return kind(parameters, **shared | further)
    optimizer: Optimizer = kind(parameters, settings, **further)
    return optimizer


def probe(network: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Return the optimizer of parameters that have the shapes of the network's but no memory.

    Raises:
        UserError: the optimizer does not take its arguments, or parameters of these shapes.
    """
    parameters = [nn.Parameter(torch.zeros((1,) * p.dim()).expand(p.shape)) for p in network.parameters()]
    try:
        return make_optimizer(parameters, settings)
    except (TypeError, ValueError, RuntimeError) as error:
        args = f".args={settings.args}" if settings.args else f"={settings.name}"
        raise UserError(f"optimizer{args}: {' '.join(str(error).split())}") from None


def is_elementwise(optimizer: Optimizer) -> bool:
    """Return whether each weight's update depends on no other weight, as sparse execution requires.

    Classes of one's own say so by a class attribute `elementwise = True`.
    """
    kind = type(optimizer)
    is_torch = kind.__module__.startswith("torch.optim.") and kind.__name__ in ELEMENTWISE
    return is_torch or bool(getattr(kind, "elementwise", False))
