"""Transfers between the host and a device, as few as possible: the host waits for a GPU in each that it reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the host to a device; for a GPU by way of pinned memory, so that the host does not wait."""
    if device.type in ("cpu", "mps"):
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors of the same type on the CPU, copied from a GPU by one transfer."""
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        return {name: tensor.contiguous() for name, tensor in tensors.items()}
    together = torch.cat([tensor.contiguous().reshape(-1) for tensor in tensors.values()]).cpu()
    parts = torch.split(together, [tensor.numel() for tensor in tensors.values()])
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(tensors.items(), parts, strict=True)}


def counts(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of True entries of each mask; the host waits for a GPU once."""
    if not masks:
        return {}
    return dict(zip(masks, torch.stack([mask.sum() for mask in masks.values()]).tolist(), strict=True))
