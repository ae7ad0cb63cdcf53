"""Drawing masks, holding them in a module, and what density they have.

A mask is a boolean tensor in the shape of its weight. Inside a module it is a buffer, `weight_mask`, next to the
weight: updated in place and never rebound, so that checkpoints, `.to()` and DDP need nothing special.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ersparse.sparse.layers import Layer, prunable_modules

Masks = dict[str, Tensor]
BUFFER = "weight_mask"
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # of a weight of so many bytes


def draw_bernoulli(layer: Layer, density: float, random: np.random.Generator) -> Tensor:
    """Each weight is kept with probability `density`, independently: the definition of an ER network (section 2).

    The comparison is in double precision: single-precision uniforms have 24 bits, and would be a fifth off at the
    densities of 1e-7 that pyramidal asks for at 0.999.
    """
    return torch.from_numpy(random.random(layer.shape) < density)


def draw_exact(layer: Layer, density: float, random: np.random.Generator) -> Tensor:
    """Exactly round(density * size) weights, every such set equally likely."""
    mask = np.zeros(layer.size, dtype=bool)
    mask[random.choice(layer.size, round(density * layer.size), replace=False, shuffle=False)] = True
    return torch.from_numpy(mask.reshape(layer.shape))


def shuffled(mask: Tensor, random: np.random.Generator) -> Tensor:
    """The same number of weights at random places: a control for where a mask has them (Su et al. 2020)."""
    return torch.from_numpy(random.permutation(mask.numpy().reshape(-1)).reshape(mask.shape))


def attach(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Puts `masks` into `module` as buffers, or in place into the buffers it has; `enforce` zeroes what they remove.

    Raises:
        KeyError: a name is not a prunable parameter of `module`.
    """
    holders = prunable_modules(module)
    for name, mask in masks.items():
        holder = holders[name]
        if hasattr(holder, BUFFER):
            getattr(holder, BUFFER).copy_(mask)
        else:
            holder.register_buffer(BUFFER, torch.empty_like(holder.weight, dtype=torch.bool).copy_(mask))


def masks_of(module: nn.Module) -> Masks:
    """The masks that `module` holds, by parameter name; empty where it holds none."""
    return {name: getattr(m, BUFFER) for name, m in prunable_modules(module).items() if hasattr(m, BUFFER)}


def masked_weights(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The (weight, mask) pairs of `module`."""
    return [(m.weight, getattr(m, BUFFER)) for m in prunable_modules(module).values() if hasattr(m, BUFFER)]


@torch.no_grad()
def enforce(module: nn.Module) -> None:
    """Sets every removed weight to exactly 0.0: not -0.0, and not NaN where a weight is."""
    for weight, mask in masked_weights(module):
        _zero(weight.detach(), mask)


def _zero(weight: Tensor, mask: Tensor) -> None:
    """Sets `weight` to 0.0 where `mask` is false: its bits, as integers, times 0 or 1. Every optimizer step ends so.

    On a CPU by numpy, in one pass and without a copy: that takes less than half as long as torch.where there.
    """
    bits = weight.view(BITS[weight.element_size()])
    if bits.device.type == "cpu":
        np.multiply(bits.numpy(), mask.numpy(), out=bits.numpy())
    else:
        bits.mul_(mask)


def keep(module: nn.Module, optimizer: Optimizer) -> RemovableHandle:
    """Keeps the masks of `module`: after every step of `optimizer` removed weights are exactly zero again.

    Returns:
        A handle; its `remove()` ends this.
    """
    layers = prunable_modules(module).values()  # once: some may get their masks later

    @torch.no_grad()
    def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for layer in layers:
            if hasattr(layer, BUFFER):
                _zero(layer.weight.detach(), getattr(layer, BUFFER))

    enforce(module)
    return optimizer.register_step_post_hook(after_step)


def density_of(masks: Mapping[str, Tensor]) -> float:
    """Kept weights over all weights; 1.0 for no masks."""
    sizes = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / sizes if sizes else 1.0


def digest(masks: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and bits, in the order of the names."""
    state = hashlib.sha256()
    for name in sorted(masks):
        mask = masks[name].cpu().numpy()
        state.update(f"{name}{mask.shape}".encode())
        state.update(np.packbits(mask).tobytes())
    return state.hexdigest()
