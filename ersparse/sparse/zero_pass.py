"""The forward pass of a network whose weights are all zero, which needs no memory for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def zero_pass(module: nn.Module, images: int, shape: tuple[int, int, int], *, training: bool = False) -> Any:
    """Return what `module` computes from images of zeros, on the CPU, with parameters and buffers of zeros.

    Each parameter is expanded from a single zero, so the pass takes milliseconds and no memory for weights. The module
    itself is left as it is, with the mode that it had.

    Args:
        module: the network, on any device, including the meta device.
        images: number of images.
        shape: of an image, [channels, height, width].
        training: compute as in training mode rather than as in evaluation mode.
    """
    # buffers are written in training; those that are not persistent are not in the state dict
    zeros: dict[str, Tensor] = {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype)
        for name, tensor in module.named_buffers(remove_duplicate=False)
    }
    for name, tensor in module.named_parameters(remove_duplicate=False):
        zeros[name] = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
    before = module.training
    try:
        with torch.inference_mode():
            inputs = torch.zeros(images, *shape)
            return functional_call(module.train(training), zeros, (inputs,), tie_weights=False)
    finally:
        module.train(before)
