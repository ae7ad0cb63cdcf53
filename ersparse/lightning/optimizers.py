"""Optimizers: functions from parameters and settings to a torch optimizer. Options of conf/optimizer name them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ersparse.config.optimizer_settings import HamSettings, OptimizerSettings
from ersparse.errors import UserError
from ersparse.lightning.lion import Lion
from ersparse.lightning.loss_scaling import overflowed_in_step
from ersparse.locate import own_code
from ersparse.sparse.hyperbolic import hyperbolic_step

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


def add_hyperbolic_steps(optimizer: Optimizer, weights: Collection[Tensor], settings: HamSettings) -> None:
    """Let every step of `optimizer` end with a hyperbolic step (`ersparse.sparse.hyperbolic`) of `weights`.

    Weights without a gradient stay as they are, and so do all if 16-mixed has left out the optimizer's own step.
    """
    chosen = {id(weight) for weight in weights}

    def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if overflowed_in_step(optimizer):
            return
        for group in optimizer.param_groups:
            trained = {p: p.grad for p in group["params"] if id(p) in chosen and p.grad is not None}
            if trained:
                hyperbolic_step(list(trained), list(trained.values()), group["lr"], settings.alpha, settings.beta)

    optimizer.register_step_post_hook(after_step)


def probe(network: nn.Module, settings: OptimizerSettings) -> Optimizer:
    """Return the optimizer of parameters that have the shapes of the network's but no memory.

    Raises:
        UserError: the optimizer does not take its arguments, or parameters of these shapes, or is none.
    """
    parameters = [nn.Parameter(torch.zeros((1,) * p.dim()).expand(p.shape)) for p in network.parameters()]
    where = f"optimizer.args={settings.args}" if settings.args else f"optimizer={settings.name}"
    with own_code(where, settings.target):
        try:
            made = make_optimizer(parameters, settings)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{where}: {' '.join(str(error).split())}") from None
    if not isinstance(made, Optimizer):
        raise UserError(f"{where}: {settings.target} returns {type(made).__name__}, must return an Optimizer")
    return made


def is_elementwise(optimizer: Optimizer) -> bool:
    """Return whether each weight's update depends on no other weight, as sparse execution requires.

    Classes of one's own say so by a class attribute `elementwise = True`.
    """
    kind = type(optimizer)
    is_torch = kind.__module__.startswith("torch.optim.") and kind.__name__ in ELEMENTWISE
    return is_torch or bool(getattr(kind, "elementwise", False))
