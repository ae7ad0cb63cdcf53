"""A multilayer perceptron on the pixels of an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

HIDDEN = (300, 100)


def mlp(
    num_classes: int,
    channels: int = 1,
    width: float = 1.0,
    image_size: int | Sequence[int] = 28,
    hidden: Sequence[int] = HIDDEN,
) -> nn.Sequential:
    """Build a multilayer perceptron with ReLU; by default LeNet-300-100 (LeCun et al. 1998).

    Args:
        num_classes: number of outputs.
        channels: channels of an input image.
        width: factor on the width of every hidden layer.
        image_size: side of a square input image in pixels, or its height and width.
        hidden: widths of the hidden layers.
    """
    height, side = (image_size, image_size) if isinstance(image_size, int) else image_size
    widths = [channels * height * side, *(max(1, round(unscaled * width)) for unscaled in hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
