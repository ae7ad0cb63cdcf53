"""Input-copy layer: layer 0 of the source network, which passes every input through a ReLU unchanged (A.3, A.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from ersparse.errors import UserError
from ersparse.theory.networks import AffineLayer

InputCopy = Literal["auto", "shift", "padded", "pairs"]


def with_input_copy_layer(
    layers: Sequence[AffineLayer], low: float, identity: InputCopy = "auto", kernel: int = 1
) -> list[AffineLayer]:
    """Prepend the input-copy layer to a target and adapt its first layer, so that the function stays the same.

    Args:
        layers: layers 1..L of the target.
        low: lower end a_1 of the input interval.
        identity: how the ReLU of layer 0 acts as the identity.
            "shift" adds -low before the ReLU, and layer 1 subtracts it again, as in A.3. The zero padding of layer 1
            then pads the shifted input, so that the output is wrong at padded borders if low < 0.
            "padded" shifts as well, but moves the padding from layer 1 to layer 0; this is exact everywhere.
            "pairs" passes x as relu(x) - relu(-x); this is exact everywhere, for any interval, but twice as wide.
            "auto" selects "padded" if layer 1 has padding and low < 0, otherwise "shift".
        kernel: odd kernel size of a convolutional layer 0; only the centre of each kernel is used.

    Returns:
        Layers 0..L.

    Raises:
        UserError: `identity` or `kernel` is not allowed.
    """
    first, *rest = layers
    if identity == "auto":
        identity = "padded" if any(first.padding) and low < 0 else "shift"
    dimensions = first.weight.ndim - 2
    _check(identity, kernel, dimensions)
    copy = torch.eye(first.weight.shape[1], dtype=first.weight.dtype)
    if identity == "pairs":
        copy, first = _signed_pairs(copy, first)
    shift = 0.0 if identity == "pairs" else max(0.0, -low)
    moved = first.padding if identity == "padded" else (0, 0)
    weight = pad(copy.reshape(*copy.shape, *[1] * dimensions), [kernel // 2] * (2 * dimensions))
    padding = (moved[0] + kernel // 2, moved[1] + kernel // 2)
    copy_layer = AffineLayer(weight, copy.new_full((len(copy),), shift), padding=padding)
    bias = first.bias - shift * first.weight.flatten(1).sum(1)
    first = AffineLayer(first.weight, bias, first.stride, (0, 0) if any(moved) else first.padding)
    return [copy_layer, first, *rest]


def _check(identity: str, kernel: int, dimensions: int) -> None:
    if identity not in ("shift", "padded", "pairs"):
        raise UserError(f"identity={identity}: must be one of auto, shift, padded, pairs")
    if kernel % 2 == 0 or (dimensions == 0 and kernel != 1):
        raise UserError(f"kernel={kernel}: must be odd, and 1 for a linear target")


def _signed_pairs(copy: Tensor, first: AffineLayer) -> tuple[Tensor, AffineLayer]:
    """Return the weights that map x to (x, -x), and layer 1 with the inputs (relu(x), relu(-x))."""
    inputs, dimensions = len(copy), first.weight.ndim - 2
    copy = torch.stack([copy, -copy], 1).flatten(0, 1)
    signs = copy.new_tensor([1.0, -1.0]).repeat(inputs).reshape(-1, *[1] * dimensions)
    return copy, AffineLayer(first.weight.repeat_interleave(2, 1) * signs, first.bias, first.stride, first.padding)
