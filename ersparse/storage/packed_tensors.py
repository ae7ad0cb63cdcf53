"""A compact, lossless form of tensors that are mostly zero: masked weights, their optimizer state, and masks.

A packed tensor stores its elements that are not zero, and where they lie. Tensors with the same positions, such as a
mask, its weight and the momentum of it, share them in a file, because torch.save writes shared memory once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MARK = "ersparse.packed"  # key of a packed tensor
MIN_ELEMENTS = 1024  # smaller tensors are not worth it
MAX_FRACTION = 0.5  # of elements that are not zero
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool)
GAP_TYPES = (np.uint8, np.int16, np.int32, np.int64)


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Return a copy of nested dicts and lists in which `function` has replaced each tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        copied = copy.copy(value)  # of its class, and with the versions of modules that state dicts have
        for key, item in value.items():
            copied[key] = map_tensors(item, function)
        return copied
    return [map_tensors(item, function) for item in value] if type(value) is list else value


def pack(value: Any) -> Any:
    """Return nested dicts and lists with their mostly zero tensors packed; `unpack` is the inverse, bit for bit."""
    positions: dict[bytes, Tensor] = {}
    return map_tensors(value, lambda tensor: _packed(tensor, positions))


def unpack(value: Any) -> Any:
    """Return nested dicts and lists with their packed tensors unpacked."""
    if isinstance(value, dict):
        if MARK in value:
            return _unpacked(value)
        for key, item in value.items():
            value[key] = unpack(item)
        return value
    return [unpack(item) for item in value] if type(value) is list else value


def is_packed(value: Any) -> bool:
    """Return whether there is a packed tensor in nested dicts and lists."""
    if isinstance(value, dict):
        return MARK in value or any(map(is_packed, value.values()))
    return type(value) is list and any(map(is_packed, value))


def _packed(tensor: Tensor, positions: dict[bytes, Tensor]) -> Any:
    if tensor.device.type != "cpu" or tensor.numel() < MIN_ELEMENTS or tensor.dtype not in DTYPES:
        return tensor
    flat = tensor.detach().as_subclass(torch.Tensor).reshape(-1)  # type: ignore[arg-type]
    present = flat != 0
    if present.count_nonzero() > MAX_FRACTION * len(flat):
        return tensor
    negative = torch.signbit(flat) & ~present if flat.is_floating_point() else torch.zeros(0, dtype=torch.bool)
    encoded = _encode(present.numpy())
    return {
        MARK: 1, "shape": list(tensor.shape), "stride": list(tensor.stride()), "dtype": tensor.dtype,
        "positions": positions.setdefault(encoded.numpy().tobytes(), encoded),
        "values": None if flat.dtype == torch.bool else flat[present],
        "negative_zeros": _encode(negative.numpy()) if negative.any() else None,
    }  # fmt: skip


def _unpacked(packed: dict[str, Any]) -> Tensor:
    result = torch.empty_strided(packed["shape"], packed["stride"], dtype=packed["dtype"])
    flat = torch.zeros(result.numel(), dtype=result.dtype)
    values, negative_zeros = packed["values"], packed["negative_zeros"]
    flat[_decode(packed["positions"], len(flat))] = True if values is None else values
    if negative_zeros is not None:
        flat[_decode(negative_zeros, len(flat))] = -0.0
    return result.copy_(flat.view(result.shape))


def _encode(present: np.ndarray) -> Tensor:
    """Return the positions of true elements: bits, or the number of false elements before each, whichever is smaller.

    Bits are a matrix with one row, by which `_decode` recognises them.
    """
    gaps = np.diff(np.flatnonzero(present), prepend=-1) - 1
    dtype = next(t for t in GAP_TYPES if not len(gaps) or gaps.max() <= np.iinfo(t).max)
    if len(gaps) * np.dtype(dtype).itemsize <= len(present) / 8:
        return torch.from_numpy(gaps.astype(dtype))
    return torch.from_numpy(np.packbits(present))[None]


def _decode(encoded: Tensor, size: int) -> Tensor:
    """Return the positions int64 [count] that `_encode` has encoded."""
    if encoded.dim() == 2:
        return torch.from_numpy(np.flatnonzero(np.unpackbits(encoded[0].numpy(), count=size)))
    return torch.cumsum(encoded.long() + 1, 0) - 1
