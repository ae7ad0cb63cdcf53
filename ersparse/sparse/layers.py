"""Which parameters are prunable, and in which order."""

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
        name: of the parameter, as in `named_parameters()`: "features.0.weight".
        shape: (output channels, input channels / groups, *kernel); a linear layer has no kernel.
        groups: of a grouped convolution, else 1.
    """

    name: str
    shape: tuple[int, ...]
    groups: int = 1

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def n_out(self) -> int:
        return self.shape[0]

    @property
    def n_in(self) -> int:
        """Input channels, of all groups together."""
        return self.shape[1] * self.groups

    @property
    def fan_in(self) -> int:
        """Weights into one output channel."""
        return self.size // self.n_out


def prunable_modules(module: nn.Module) -> dict[str, Prunable]:
    """Parameter name -> the module that holds it, in `named_modules()` order: every convolution and linear layer.

    A weight that several layers share counts once, under its first name.
    """
    found: dict[str, Prunable] = {}
    seen: set[int] = set()
    for name, child in module.named_modules():
        if isinstance(child, Prunable) and id(child.weight) not in seen:
            seen.add(id(child.weight))
            found[f"{name}.weight" if name else "weight"] = child
    return found


def prunable_layers(module: nn.Module) -> list[Layer]:
    """The layers l = 1..L of `module`; biases and normalisation are never among them."""
    return [
        Layer(name, tuple(child.weight.shape), getattr(child, "groups", 1))
        for name, child in prunable_modules(module).items()
    ]


def positions(module: nn.Module, channels: int, side: int) -> dict[str, int]:
    """How often one image uses each weight of a layer: pixels of a convolution's output, once in a linear layer.

    A layer takes 2 x kept weights x positions floating-point operations for a forward pass, a multiplication and an
    addition being two. `module` is on the meta device. What is counted is a pass of a black image through zeros, which
    takes milliseconds, and no memory for the weights; on the meta device PyTorch would import its compiler for it.
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
