"""Masks: drawing them, holding them in a module, and measuring their density.

A mask is a boolean tensor in the shape of its weight. A module holds it as a buffer, `weight_mask`, next to the weight.
The buffer is updated in place and never rebound, so checkpoints, `.to()`, DDP and `torch.compile` need nothing special.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ersparse.errors import UserError
from ersparse.sparse.layers import Layer, Prunable, prunable_modules

Masks = dict[str, Tensor]
BUFFER = "weight_mask"
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integer type by the size of a weight in bytes


def draw_bernoulli(layer: Layer, density: float, random: np.random.Generator) -> Tensor:
    """Draw an Erdős–Rényi mask: each weight is kept independently with probability `density` (section 2).

    The comparison is in double precision. Single-precision uniform numbers have 24 bits; at the densities of 1e-7 that
    the pyramidal rule reaches at sparsity 0.999 they would be off by a fifth.
    """
    return torch.from_numpy(random.random(layer.shape) < density)


def draw_exact(layer: Layer, density: float, random: np.random.Generator) -> Tensor:
    """Draw a mask of exactly round(density * size) weights, uniformly among all such masks."""
    mask = np.zeros(layer.size, dtype=bool)
    mask[random.choice(layer.size, round(density * layer.size), replace=False, shuffle=False)] = True
    return torch.from_numpy(mask.reshape(layer.shape))


def shuffled(mask: Tensor, random: np.random.Generator) -> Tensor:
    """Return a random permutation of `mask`: the layerwise shuffling control (Su et al. 2020; Frankle et al. 2021)."""
    return torch.from_numpy(random.permutation(mask.numpy().reshape(-1)).reshape(mask.shape))


def attach(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Register `masks` as buffers of `module`, or copy them into existing buffers; `enforce` zeroes removed weights.

    Raises:
        KeyError: a name is not that of a prunable parameter of `module`.
    """
    holders = prunable_modules(module)
    for name, mask in masks.items():
        holder = holders[name]
        if hasattr(holder, BUFFER):
            getattr(holder, BUFFER).copy_(mask)
        else:
            holder.register_buffer(BUFFER, torch.empty_like(holder.weight, dtype=torch.bool).copy_(mask))


def is_masked(layer: nn.Module) -> bool:
    """Return whether `layer` has a boolean mask; the masks of `torch.nn.utils.prune`, of the same name, are floats."""
    mask = layer._buffers.get(BUFFER)
    return mask is not None and mask.dtype == torch.bool


def masks_of(module: nn.Module) -> Masks:
    """Return the mask buffers of `module` by parameter name; empty if it has none."""
    return {name: getattr(m, BUFFER) for name, m in prunable_modules(module).items() if is_masked(m)}


def masked_weights(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the (weight, mask) pairs of `module`.

    Raises:
        UserError: a masked weight is computed from other tensors.
    """
    layers = {name: layer for name, layer in prunable_modules(module).items() if is_masked(layer)}
    return [(stored_weight(name, layer), getattr(layer, BUFFER)) for name, layer in layers.items()]


def stored_weight(name: str, layer: Prunable) -> Tensor:
    """Return the weight of a masked layer.

    Raises:
        UserError: a parametrization or weight_norm or spectral_norm was registered after the mask. The parameters that
            are trained are then others, so that no mask on `weight` has an effect.
    """
    weight = layer._parameters.get("weight")
    if weight is None:
        raise UserError(
            f"{name}: is computed from other tensors since its mask was attached (by weight_norm, spectral_norm or "
            "another parametrization), so the mask has no effect; must be a parameter"
        )
    return weight


@torch.no_grad()
def enforce(module: nn.Module) -> None:
    """Set every removed weight to exactly +0.0, including weights that are negative or NaN.

    Raises:
        UserError: a masked weight is computed from other tensors.
    """
    for weight, mask in masked_weights(module):
        zero_removed(weight.detach(), mask)


def enforce_on_load(module: nn.Module) -> None:
    """Make every masked layer of `module` set its removed weights to zero after `load_state_dict`.

    Otherwise the weights of a dense checkpoint would bring them back until the next optimizer step. The hook is a
    function of this module, so copies and pickles of the layer have it as well. Calling this twice changes nothing.
    """
    for layer in prunable_modules(module).values():
        if is_masked(layer) and _enforce_loaded not in layer._load_state_dict_post_hooks.values():
            layer.register_load_state_dict_post_hook(_enforce_loaded)  # type: ignore[no-untyped-call]


def remove_masks(module: nn.Module) -> None:
    """Take the masks off `module`: removed weights stay zero, as ordinary weights that training may change.

    The state dict is then that of the dense network, and `sparsify` can be called again. Optimizer hooks of
    `keep_masks` have no further effect. `torch.nn.utils.prune.remove` does the same for PyTorch's own pruning.

    Args:
        module: a module with masks, such as `sparsify` or `load` returns.

    Raises:
        UserError: the module has no masks; it is unchanged.

    Example:
        >>> ersparse.remove_masks(network)
        >>> dense_network.load_state_dict(network.state_dict())
    """
    layers = [layer for layer in prunable_modules(module).values() if is_masked(layer)]
    if not layers:
        raise UserError(f"module={type(module).__name__}: has no masks")
    enforce(module)
    for layer in layers:
        delattr(layer, BUFFER)
        hooks = layer._load_state_dict_post_hooks
        for key in [key for key, hook in hooks.items() if hook is _enforce_loaded]:
            del hooks[key]


def _enforce_loaded(layer: nn.Module, incompatible_keys: Any) -> None:
    enforce(layer)


def zero_removed(weight: Tensor, mask: Tensor) -> None:
    """Set `weight` to +0.0 where `mask` is False, by multiplying its bits, as integers, by 0 or 1.

    This runs on gradients in every backward pass, and on weights after every optimizer step. On a CPU, NumPy does it
    in one pass and without a copy, in less than half the time of `torch.where`.
    """
    bits = weight.view(BITS[weight.element_size()])
    if bits.device.type == "cpu":
        np.multiply(bits.numpy(), mask.numpy(), out=bits.numpy())
    else:
        bits.mul_(mask)


def density_of(masks: Mapping[str, Tensor]) -> float:
    """Return the realised density: kept weights divided by all weights; 1.0 for no masks."""
    sizes = sum(mask.numel() for mask in masks.values())
    return sum(int(mask.sum()) for mask in masks.values()) / sizes if sizes else 1.0


def digest(masks: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, shapes and bits of `masks`, sorted by name."""
    state = hashlib.sha256()
    for name in sorted(masks):
        mask = masks[name].cpu().numpy()
        state.update(f"{name}{mask.shape}".encode())
        state.update(np.packbits(mask).tobytes())
    return state.hexdigest()
