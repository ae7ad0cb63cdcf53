"""Whether the memory of a weight is its own, and has room for a mask beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ersparse.sparse.layers import PrunableWeight
from ersparse.sparse.mask import is_masked, mask_of


def unusable_memory(name: str, held: PrunableWeight, seen: dict[int, dict[str, Tensor]]) -> str | None:
    """Return why a weight cannot be masked, in one line; None if it can.

    Args:
        name: name of the weight.
        held: the weight.
        seen: the weights of the network that were examined before, by their memory and name; the weight is added.
    """
    weight = held.parameter
    assert weight is not None
    if is_lazy(weight):
        return None
    shape = list(weight.shape)
    if weight.dim() < 2:
        return f"{name} has shape {shape}, must have two axes or more; a sharded or flattened weight has one"
    if weight.numel() == 0:
        return f"{name} has shape {shape}, must have elements"
    if hasattr(held.module, held.mask_key) and not is_masked(held):
        return f"{name} is beside an attribute {held.mask_key} of {type(held.module).__name__}; must have another name"
    if is_masked(held) and mask_of(held).shape != weight.shape:
        return f"{name} has shape {shape} and its mask {list(mask_of(held).shape)}; must be whole"
    if any(stride == 0 and size > 1 for stride, size in zip(weight.stride(), weight.shape, strict=True)):
        return f"{name} has elements that share memory, as expanded tensors do; must be a contiguous copy"
    if weight.layout != torch.strided or type(weight) is not nn.Parameter:
        return None
    alike = seen.setdefault(weight.untyped_storage()._cdata, {})
    if other := next((other for other, tensor in alike.items() if _overlaps(tensor, weight)), None):
        return f"{name} shares memory with {other} but is another parameter; must be the same parameter, or a copy"
    alike[name] = weight
    return None


def _overlaps(first: Tensor, second: Tensor) -> bool:
    """Return whether two views of one tensor have an element in common; they may interleave without one."""
    if first.element_size() != second.element_size():
        return False
    used = torch.zeros(first.untyped_storage().nbytes() // first.element_size(), dtype=torch.bool)
    used.as_strided(first.shape, first.stride(), first.storage_offset()).fill_(True)
    return bool(used.as_strided(second.shape, second.stride(), second.storage_offset()).any())
