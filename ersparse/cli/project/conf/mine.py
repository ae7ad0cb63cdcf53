"""A density, a network and a data set of one's own; the YAML files beside this file name them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ersparse.data.arrays import Arrays
from ersparse.sparse.density import fill
from ersparse.sparse.layers import Layer


def powerlaw(layers: Sequence[Layer], density: float, alpha: float = 1.0) -> list[float]:
    """Return layer densities in proportion to `size ** -alpha` that meet the global density."""
    raw = np.array([float(layer.size) ** -alpha for layer in layers])
    return fill(raw, layers, density, np.zeros(len(layers)))


def small_net(num_classes: int, channels: int = 1, width: float = 1.0, hidden: int = 16) -> nn.Module:
    """Return a network of two convolutions and a linear layer, which takes images of any size."""
    inner = max(1, round(hidden * width))
    return nn.Sequential(
        nn.Conv2d(channels, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, 2 * inner, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * inner),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * inner, num_classes),
    )


def stripes(root: Path, download: bool, noise: float = 60.0) -> Arrays:
    """Return made-up images of horizontal and vertical stripes, 512 for training and 256 for testing.

    Replace the body by code that reads your own images, such as `np.load(root / "mine.npz")`: uint8 images of the
    shape [N, side, side, channels], and int64 labels of the shape [N].
    """
    random = np.random.default_rng(0)
    labels = np.arange(768) % 2
    phase, column = random.integers(0, 4, 768), np.arange(16)
    rows = 255.0 * ((column[None, :] + phase[:, None]) % 4 < 2)
    images = np.where(labels[:, None, None] == 0, rows[:, :, None], rows[:, None, :]) * np.ones((1, 16, 16))
    noisy = np.clip(images + random.normal(0, noise, images.shape), 0, 255).astype(np.uint8)[..., None]
    x, y = torch.from_numpy(noisy), torch.from_numpy(labels.astype(np.int64))
    return Arrays(x[:512], y[:512], x[512:], y[512:])
