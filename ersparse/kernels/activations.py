"""Elementwise activations that the kernels compute, and the modules of PyTorch that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

MODULES: dict[str, Callable[..., nn.Module]] = {  # in the order of `Activation` in operation.h, from 1
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
}
SLOPES = {"leaky_relu": "negative_slope", "elu": "alpha"}  # the modules with a parameter, and its name
CODES = {name: code for code, name in enumerate(MODULES, 1)}


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Attributes:
        name: a key of `MODULES`.
        slope: the parameter that `SLOPES` names; 0 for functions without one.
    """

    name: str
    slope: float = 0.0

    @property
    def clamps(self) -> bool:
        """Whether the function restricts numbers to an interval, so that maxima may be taken before it."""
        return self.name in ("relu", "relu6")

    def build(self) -> nn.Module:
        """Return the PyTorch module of this function."""
        return MODULES[self.name](**({SLOPES[self.name]: self.slope} if self.name in SLOPES else {}))


def activation_of(module: Any) -> Activation | None:
    """Return the activation that a module computes, or None if it is not one of `MODULES`."""
    if type(module) is nn.GELU:
        return Activation("gelu" if module.approximate == "none" else "gelu_tanh")
    name = next((name for name, kind in MODULES.items() if type(module) is kind), None)
    if name is None:
        return None
    return Activation(name, float(getattr(module, SLOPES[name])) if name in SLOPES else 0.0)


def code_of(activation: Activation | None) -> int:
    """Return the number by which the kernels know an activation; 0 for none."""
    return CODES[activation.name] if activation else 0
