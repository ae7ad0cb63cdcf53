"""Prunable layers: which parameters may be pruned, and in which order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

Prunable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True)
class Layer:
    """One prunable weight tensor.

    Attributes:
        name: name of the parameter, as in `named_parameters()`: "features.0.weight".
        shape: (output channels, input channels / groups, *kernel); a linear layer has no kernel dimensions.
        groups: number of groups of a convolution; 1 for a linear layer.
    """

    name: str
    shape: tuple[int, ...]
    groups: int = 1

    @property
    def size(self) -> int:
        """Number of weights N_l."""
        return math.prod(self.shape)

    @property
    def n_out(self) -> int:
        """Number of output channels."""
        return self.shape[0]

    @property
    def n_in(self) -> int:
        """Number of input channels, summed over all groups."""
        return self.shape[1] * self.groups

    @property
    def fan_in(self) -> int:
        """Number of weights into one output channel."""
        return self.size // self.n_out


def prunable_modules(module: nn.Module) -> dict[str, Prunable]:
    """Return every convolution and linear layer of `module`, keyed by the name of its weight.

    The order is that of `named_modules()`. A weight that several layers share appears once, under its first name.
    """
    found: dict[str, Prunable] = {}
    seen: set[int] = set()
    for name, child in module.named_modules():
        if not isinstance(child, Prunable):
            continue
        weight = child._parameters.get("weight", child)  # one that is computed is a new tensor each time, not shared
        if id(weight) not in seen:
            seen.add(id(weight))
            found[f"{name}.weight" if name else "weight"] = child
    return found


def prunable_layers(module: nn.Module) -> list[Layer]:
    """Return the prunable layers l = 1..L of `module`; biases and normalisation parameters are never among them."""
    return [
        Layer(name, tuple(child.weight.shape), getattr(child, "groups", 1))
        for name, child in prunable_modules(module).items()
    ]


def positions(module: nn.Module, channels: int, side: int) -> dict[str, int]:
    """Return how often one image uses each weight: the output pixels of a convolution, 1 for a linear layer.

    The forward pass of a layer takes 2 x kept weights x positions FLOPs, since a multiply-add counts as two.

    The count comes from the forward pass of a zero image. All weights are expanded from a single zero, so the pass
    takes milliseconds and no memory for weights; a pass on the meta device would make PyTorch import its compiler.

    Args:
        module: the network, on any device, including the meta device.
        channels: number of channels of an image.
        side: height and width of an image, in pixels.
    """
    found: dict[str, int] = {}

    def count(name: str, child: Prunable, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = output.numel() // child.weight.shape[0]

    hooks = [child.register_forward_hook(partial(count, name)) for name, child in prunable_modules(module).items()]
    training = module.training
    zeros = {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in module.state_dict().items()
    }
    with torch.inference_mode():
        functional_call(module.eval(), zeros, (torch.zeros(1, channels, side, side),))
    module.train(training)
    for hook in hooks:
        hook.remove()
    return found
