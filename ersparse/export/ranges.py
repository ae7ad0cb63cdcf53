"""Ranges of activations on sample images, from which 8-bit prediction takes its scales."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ersparse.export.folded import FoldedNetwork

BATCH_SIZE = 128


class Range(NamedTuple):
    """The smallest and the largest number that a tensor has on the sample images; 0 lies between them."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """The distance between two adjacent bytes: a byte q stands for (q - zero) * scale."""
        return (self.high - self.low) / 255 or 1.0

    @property
    def zero(self) -> int:
        """The byte that stands for 0."""
        return round(-self.low / self.scale)


Ranges = list[list[Range]]


@torch.no_grad()
def observe(network: FoldedNetwork, images: Tensor) -> Ranges:
    """Return the ranges of all tensors of a network on sample images.

    Args:
        network: the folded network.
        images: normalised float32 [N, channels, side, side]; some hundreds of training images are enough.

    Returns:
        For the images, and then for each step, the ranges of its stages: the sum, the activation if there is one, and
        the pooling if there is one. A product or a concatenation has one stage.
    """
    lows, highs = [], []
    for batch in torch.split(images, BATCH_SIZE):
        stages = _stages(network, batch)
        lows.append([tensor.min().item() for step in stages for tensor in step])
        highs.append([tensor.max().item() for step in stages for tensor in step])
    limits = zip(np.minimum(0, np.min(lows, 0)).tolist(), np.maximum(0, np.max(highs, 0)).tolist(), strict=True)
    return [[Range(*next(limits)) for _ in step] for step in stages]


def _stages(network: FoldedNetwork, images: Tensor) -> list[list[Tensor]]:
    """Return the images, and for each step the tensors that it computes one after the other."""
    results, stages = [images], [[images]]
    for step, layer, epilogue in zip(network.steps, network.layers, network.epilogues, strict=True):
        tensors = [step.combine(layer(results[step.source]), results)]
        for part in epilogue.children():
            tensors.append(part(tensors[-1]))
        results.append(tensors[-1])
        stages.append(tensors)
    return stages
