"""The source's layer 0, which hands each input on through a ReLU that must act as the identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn.functional import pad

from ersparse.errors import UserError
from ersparse.theory.networks import Stage

Identity = Literal["auto", "shift", "padded", "pairs"]


def with_extra_layer(stages: Sequence[Stage], low: float, identity: Identity = "auto", kernel: int = 1) -> list[Stage]:
    """The target with a layer before it that copies its inputs, and with a layer 1 that undoes what that one does.

    Args:
        low: the lower end of the inputs' box.
        identity: "shift" adds -low before the ReLU, and layer 1 takes it off again: the paper's, A.3. Layer 1's zero
            padding pads the shifted input, so it is wrong at padded borders where low < 0.
            "padded" shifts too, and moves layer 1's padding into layer 0: right everywhere, as the padding is shifted.
            "pairs" hands on x as relu(x) - relu(-x): right everywhere for any box, and twice as wide.
            "auto" is "padded" where there is padding and low < 0, else "shift".
        kernel: size of a convolutional layer 0, odd; only the centre of a kernel is used.

    Returns:
        Layers 0..L.
    """
    first, *rest = stages
    if identity == "auto":
        identity = "padded" if any(first.padding) and low < 0 else "shift"
    if identity not in ("shift", "padded", "pairs"):
        raise UserError(f"identity={identity}: must be one of auto, shift, padded, pairs")
    inputs, dimensions = first.weight.shape[1], first.weight.ndim - 2
    if kernel % 2 == 0 or (dimensions == 0 and kernel != 1):
        raise UserError(f"kernel={kernel}: must be odd, and 1 for a linear target")
    copy = torch.eye(inputs, dtype=first.weight.dtype)
    if identity == "pairs":
        copy = torch.stack([copy, -copy], 1).flatten(0, 1)
        signs = copy.new_tensor([1.0, -1.0]).repeat(inputs).reshape(-1, *[1] * dimensions)
        first = Stage(first.weight.repeat_interleave(2, 1) * signs, first.bias, first.stride, first.padding)
    shift = 0.0 if identity == "pairs" else max(0.0, -low)
    moved = first.padding if identity == "padded" else (0, 0)
    centred = pad(copy.reshape(*copy.shape, *[1] * dimensions), [kernel // 2] * (2 * dimensions))
    around = (moved[0] + kernel // 2, moved[1] + kernel // 2)
    zero = Stage(centred, copy.new_full((len(copy),), shift), padding=around)
    bias = first.bias - shift * first.weight.flatten(1).sum(1)
    return [zero, Stage(first.weight, bias, first.stride, (0, 0) if any(moved) else first.padding), *rest]
