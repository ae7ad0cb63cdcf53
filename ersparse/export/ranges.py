"""Ranges of activations on sample images, from which 8-bit prediction takes its scales."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ersparse.errors import UserError
from ersparse.export.folded import FoldedNetwork

BATCH_SIZE = 32


class Range(NamedTuple):
    """The smallest and the largest number that a tensor has on the sample images; 0 lies between them."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """The distance between two adjacent bytes, 1 if the range is 0: a byte q stands for (q - zero) * scale."""
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

    Raises:
        UserError: a number is NaN or infinite.
    """
    batches = [_limits(network, batch) for batch in torch.split(images, BATCH_SIZE)]
    ranges = []
    for number, steps in enumerate(zip(*batches, strict=True)):
        lows, highs = np.array(steps).min(0)[:, 0], np.array(steps).max(0)[:, 1]  # of [batches, stages, 2]
        if not np.isfinite([*lows, *highs]).all():
            where = f"step {number} of the network, on the calibration images," if number else "calibration images:"
            raise UserError(f"{where} has NaN or infinite numbers; must be finite to be rounded to 8 bits")
        ranges.append([Range(min(0.0, low), max(0.0, high)) for low, high in zip(lows, highs, strict=True)])
    return ranges


def _limits(network: FoldedNetwork, images: Tensor) -> list[list[tuple[float, float]]]:
    """Return the smallest and largest number of the images, and of the tensors that each step computes in turn."""
    results, last_reader, limits = {0: images}, network.last_readers(), [[_ends(images)]]
    for number, (step, layer) in enumerate(zip(network.steps, network.layers, strict=True), 1):
        y = step.combine(layer(results[step.source]), results)
        found = [_ends(y)]
        for part in network.epilogues[number - 1].children():
            y = part(y)
            found.append(_ends(y))
        results[number] = y
        limits.append(found)
        for read in {n for n in step.operands if last_reader[n] == number}:
            del results[read]
    return limits


def _ends(x: Tensor) -> tuple[float, float]:
    low, high = x.aminmax()
    return low.item(), high.item()
