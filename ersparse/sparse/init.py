"""Initial weights that know how sparse they are (Evci et al. 2022, *Gradient flow in sparse neural networks*)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def scaled_weight(mask: Tensor, mode: str, random: np.random.Generator) -> Tensor:
    """Normal weights with variance 2 / fan-in, the fan-in counting kept weights only.

    Args:
        mask: [n_out, n_in / groups, *kernel].
        mode: "layer" takes the layer's mean fan-in, fan_in p_l with the realised p_l; "neuron" each output channel's
            own. A fan-in of 0 has no weight to scale.

    Returns:
        float32 weights in the shape of `mask`, 0 where it removes.
    """
    fan_in = mask.flatten(1).sum(1).double()
    if mode == "layer":
        fan_in = fan_in.mean().expand_as(fan_in)
    std = (2 / torch.where(fan_in > 0, fan_in, 1.0)).sqrt().reshape(-1, *[1] * (mask.dim() - 1))
    return (torch.from_numpy(random.standard_normal(mask.shape)) * std * mask).float()
