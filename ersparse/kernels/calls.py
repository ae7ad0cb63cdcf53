"""Calls of a traced network: functions of PyTorch as the modules that compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ersparse.kernels.nodes import NotCovered

FLATTEN_FUNCTIONS = (torch.flatten, "flatten")


def _dropout(p: float = 0.5, training: bool = True) -> nn.Module:
    return nn.Dropout(p) if training else nn.Identity()


def _dropout2d(p: float = 0.5, training: bool = True) -> nn.Module:
    return nn.Dropout2d(p) if training else nn.Identity()


# A function, its module, and the function's arguments after the tensor, by the names that the module gives them.
_FUNCTIONS: list[tuple[tuple[Any, ...], Any, str]] = [
    ((F.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU, "inplace"),
    ((F.relu6,), nn.ReLU6, "inplace"),
    ((F.leaky_relu,), nn.LeakyReLU, "negative_slope inplace"),
    ((F.silu,), nn.SiLU, "inplace"),
    ((F.gelu,), nn.GELU, "approximate"),
    ((F.hardswish,), nn.Hardswish, "inplace"),
    ((F.hardsigmoid,), nn.Hardsigmoid, "inplace"),
    ((F.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid, ""),
    ((F.tanh, torch.tanh, "tanh"), nn.Tanh, ""),
    ((F.elu,), nn.ELU, "alpha inplace"),
    ((F.max_pool2d, torch.max_pool2d), nn.MaxPool2d, "kernel_size stride padding dilation ceil_mode return_indices"),
    (
        (F.avg_pool2d,),
        nn.AvgPool2d,
        "kernel_size stride padding ceil_mode count_include_pad divisor_override",
    ),
    ((F.adaptive_avg_pool2d,), nn.AdaptiveAvgPool2d, "output_size"),
    ((F.interpolate,), nn.Upsample, "size scale_factor mode align_corners recompute_scale_factor"),
    ((F.max_pool1d, torch.max_pool1d), nn.MaxPool1d, "kernel_size stride padding dilation ceil_mode return_indices"),
    ((F.avg_pool1d,), nn.AvgPool1d, "kernel_size stride padding ceil_mode count_include_pad"),
    ((F.adaptive_avg_pool1d,), nn.AdaptiveAvgPool1d, "output_size"),
    ((F.dropout,), _dropout, "p training inplace"),
    ((F.dropout2d,), _dropout2d, "p training inplace"),
    ((F.adaptive_max_pool2d,), nn.AdaptiveMaxPool2d, "output_size return_indices"),
]
_MODULES = {function: (module, names.split()) for functions, module, names in _FUNCTIONS for function in functions}


def called(node: fx.Node, modules: Mapping[str, nn.Module]) -> Any:
    """Return the module that a traced node calls, or one that computes what its function does.

    Args:
        node: a call of a module, a function or a method.
        modules: the network's modules by name.

    Returns:
        The module; the function, or the name of the method, if no module stands for it.

    Raises:
        NotCovered: an argument of the function is computed.
    """
    if node.op == "call_module":
        return modules[str(node.target)]
    if node.target not in _MODULES:
        return node.target
    module, names = _MODULES[node.target]
    options = dict(zip(names, node.args[1:], strict=False)) | {k: v for k, v in node.kwargs.items() if k != "input"}
    if any(isinstance(value, fx.Node) for value in options.values()):
        raise NotCovered(f"{node.name} ({node.target} with computed arguments)")
    return module(**{name: value for name, value in options.items() if name in names and name != "inplace"})
