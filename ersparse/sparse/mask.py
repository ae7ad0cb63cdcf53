"""Masks: drawing them, holding them in a module, and measuring their density.

A mask is a boolean tensor in the shape of its weight. The module that has the weight holds the mask as a buffer, whose
name is that of the parameter and `_mask`: "weight_mask", "in_proj_weight_mask". The buffer is updated in place and
never rebound, so checkpoints, `.to()`, DDP and `torch.compile` need nothing special. Its class,
`ersparse.sparse.mask_buffer.MaskBuffer`, lets SWA and EMA treat it like other buffers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ersparse.errors import UserError
from ersparse.sparse.layers import Layer, PrunableWeight, prunable_weights
from ersparse.sparse.mask_buffer import MaskBuffer, as_mask_buffer, plain, zero_removed
from ersparse.sparse.transfer import counts

Masks = dict[str, Tensor]
N = TypeVar("N", bound=nn.Module)


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
    found = prunable_weights(module, embeddings=True)
    for name, mask in masks.items():
        held = found[name]
        if hasattr(held.module, held.mask_key):
            mask_of(held).copy_(mask)
        else:
            buffer = torch.empty_like(held.weight, dtype=torch.bool).copy_(mask)
            held.module.register_buffer(held.mask_key, as_mask_buffer(plain(buffer)))


def is_masked(held: PrunableWeight) -> bool:
    """Return whether a weight has a boolean mask; the masks of `torch.nn.utils.prune`, of the same name, are floats."""
    mask = held.module._buffers.get(held.mask_key)
    return isinstance(mask, MaskBuffer) or (mask is not None and mask.dtype == torch.bool)


def masks_of(module: nn.Module) -> Masks:
    """Return the masks of `module` by parameter name, in the memory of its buffers; empty if it has none."""
    return {name: mask_of(held) for name, held in _masked(module).items()}


def masked_weights(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the (weight, mask) pairs of `module`.

    Raises:
        UserError: a masked weight is computed from other tensors.
    """
    return [(stored_weight(name, held), mask_of(held)) for name, held in _masked(module).items()]


def _masked(module: nn.Module) -> dict[str, PrunableWeight]:
    return {name: held for name, held in prunable_weights(module).items() if is_masked(held)}


def mask_of(held: PrunableWeight) -> Tensor:
    """Return the mask of a weight that has one: an ordinary tensor with the memory of the buffer."""
    mask: Tensor = getattr(held.module, held.mask_key)
    return plain(mask)


def stored_weight(name: str, held: PrunableWeight) -> nn.Parameter:
    """Return a masked weight.

    Raises:
        UserError: a parametrization or weight_norm or spectral_norm was registered after the mask. The parameters that
            are trained are then others, so that no mask on the weight has an effect.
    """
    if held.parameter is None:
        raise UserError(
            f"{name}: is computed from other tensors since its mask was attached (by weight_norm, spectral_norm or "
            "another parametrization), so the mask has no effect; must be a parameter"
        )
    return held.parameter


@torch.no_grad()
def enforce(module: nn.Module) -> None:
    """Set every removed weight to exactly +0.0, including weights that are negative or NaN.

    Raises:
        UserError: a masked weight is computed from other tensors.
    """
    for weight, mask in masked_weights(module):
        zero_removed(weight.detach(), mask)


def enforce_on_load(module: nn.Module) -> None:
    """Make `module` and its masked layers set their removed weights to zero after `load_state_dict`.

    Otherwise the weights of a dense checkpoint would bring them back until the next optimizer step. The hook is a
    function of this module, so copies and pickles of the layers have it as well. `module` has it for weights that its
    layers share with others, such as an embedding that is loaded after them. Masks that are overwritten in another way,
    by an average of networks, do the same. Calling this twice changes nothing.
    """
    _bind(module)
    for layer in [*(held.module for held in _masked(module).values()), module]:
        if _enforce_loaded not in layer._load_state_dict_post_hooks.values():
            layer.register_load_state_dict_post_hook(_enforce_loaded)  # type: ignore[no-untyped-call]


def remove_masks(module: N) -> N:
    """Take the masks off `module`, in place: removed weights stay zero, as ordinary weights that training may change.

    The state dict is then that of the dense network, and `sparsify` can be called again. Optimizer hooks of
    `keep_masks` have no further effect. `torch.nn.utils.prune.remove` does the same for PyTorch's own pruning.

    Args:
        module: a module with masks, such as `sparsify` or `load` returns.

    Returns:
        The module itself.

    Raises:
        UserError: the module has no masks; it is unchanged.

    Example:
        >>> plain_network.load_state_dict(ersparse.remove_masks(copy.deepcopy(network)).state_dict())
    """
    masked = list(_masked(module).values())
    if not masked:
        raise UserError(f"module={type(module).__name__}: has no masks")
    enforce(module)
    for held in masked:
        delattr(held.module, held.mask_key)
    holders: list[nn.Module] = [*(held.module for held in masked), module]
    for layer in holders:
        hooks = layer._load_state_dict_post_hooks
        for key in [key for key, hook in hooks.items() if hook is _enforce_loaded]:
            del hooks[key]
    return module


def _enforce_loaded(layer: nn.Module, incompatible_keys: Any) -> None:
    _bind(layer)
    enforce(layer)


def _bind(module: nn.Module) -> None:
    """Bind the masks of `module` to their weights; plain tensors, as pickles contain, become mask buffers again."""
    for held in _masked(module).values():
        mask = held.module._buffers[held.mask_key]
        if not isinstance(mask, MaskBuffer):
            held.module._buffers[held.mask_key] = mask = as_mask_buffer(mask_of(held))
        mask.bind(held.module, held.key)


def density_of(masks: Mapping[str, Tensor]) -> float:
    """Return the realised density: kept weights divided by all weights; 1.0 for no masks."""
    sizes = sum(mask.numel() for mask in masks.values())
    return sum(counts(masks).values()) / sizes if sizes else 1.0


@torch.no_grad()
def fingerprint(masks: Mapping[str, Tensor]) -> Tensor:
    """Return a 64-bit fingerprint of each mask, int64 [number of masks], computed on its device.

    It is the sum over the kept weights of their scrambled positions (the mixing step of splitmix64). Two masks have
    the same one with probability 2^-64, unless they were made to.
    """
    return torch.stack([(_scrambled(mask.numel(), mask.device) * mask.reshape(-1)).sum() for mask in masks.values()])


def _scrambled(count: int, device: torch.device) -> Tensor:
    values = torch.arange(1, count + 1, device=device) * -7046029254386353131
    values = (values ^ (values >> 30)) * -4658895280553007687
    return (values ^ (values >> 27)) * -7723592293110705685


def digest(masks: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the names, shapes and bits of `masks`, sorted by name."""
    state = hashlib.sha256()
    for name in sorted(masks):
        mask = masks[name].cpu().numpy()
        state.update(f"{name}{mask.shape}".encode())
        state.update(np.packbits(mask).tobytes())
    return state.hexdigest()
