"""Mixup and CutMix: images of a batch mixed in pairs, with mixed labels.

The draws and the pairs follow from (seed, epoch, batch) alone, so that every rank makes the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.sparse.rng import generator
from ersparse.sparse.transfer import to_device


@dataclass(frozen=True)
class Mix:
    """The mix of one global batch.

    Attributes:
        weight: of an image's own label; its partner's is 1 - `weight`.
        box: top, bottom, left and right of the pixels that are the partner's (CutMix); None weights all (mixup).
        partners: position of each image's partner, [count].
    """

    weight: float
    box: tuple[int, int, int, int] | None
    partners: Tensor

    def needed(self, own: Tensor) -> Tensor:
        """Return the positions of the images `own` and of their partners, sorted."""
        positions: Tensor = torch.unique(torch.cat([own, self.partners[own]]))
        return positions

    def apply(self, x: Tensor, y: Tensor, own: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Mix images, and return them with class probabilities.

        Args:
            x: images [n, C, height, width] at the positions `needed(own)`.
            y: their labels, int64 [n].
            own: positions to return, [B].
            num_classes: number of classes.

        Returns:
            Images [B, C, height, width] in the memory format of `x`, and labels, float [B, num_classes].
        """
        needed = self.needed(own)
        places = torch.stack([torch.searchsorted(needed, positions) for positions in (own, self.partners[own])])
        one, other = to_device(places, x.device)
        labels = F.one_hot(y, num_classes).to(x.dtype)
        mixed_labels = self.weight * labels[one] + (1 - self.weight) * labels[other]
        if self.box is None:
            return self.weight * x[one] + (1 - self.weight) * x[other], mixed_labels
        top, bottom, left, right = self.box
        images = x[one]
        images[:, :, top:bottom, left:right] = x[other][:, :, top:bottom, left:right]
        return images, mixed_labels


@dataclass(frozen=True)
class Mixing:
    """Draws a mix for each batch.

    Attributes:
        mixup: parameter of the Beta distribution of mixup's weight (Zhang et al. 2018); 0 disables mixup.
        cutmix: the same of CutMix (Yun et al. 2019). If both are set, each batch uses one of them with equal odds.
        num_classes: number of classes.
    """

    mixup: float
    cutmix: float
    num_classes: int

    def draw(self, seed: int, epoch: int, number: int, count: int, size: tuple[int, int]) -> Mix:
        """Return the mix of a global batch.

        Args:
            seed: data seed.
            epoch: number of the epoch.
            number: of the batch in its epoch.
            count: images of the batch.
            size: height and width of an image in pixels.
        """
        random = generator(seed, "mixing", str(epoch), str(number))
        cuts = self.mixup == 0 or (self.cutmix > 0 and random.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        weight, partners = float(random.beta(alpha, alpha)), _partners(count)
        if not cuts:
            return Mix(weight, None, partners)
        height, width = size
        box = _box(weight, size, int(random.integers(height)), int(random.integers(width)))
        top, bottom, left, right = box
        return Mix(1 - (bottom - top) * (right - left) / (height * width), box, partners)


def mixing_of(settings: DatasetSettings) -> Mixing | None:
    """Return how training images are mixed; None if they are not."""
    if not settings.augment or not (settings.mixup or settings.cutmix):
        return None
    return Mixing(settings.mixup, settings.cutmix, settings.num_classes)


def _partners(count: int) -> Tensor:
    """Return the position of each image's partner: a rotation by the largest power of two up to half the batch.

    A power of two leaves most pairs on one rank when ranks take every second, fourth, ... image, so that few images
    have to be read by two ranks.
    """
    shift = 1 << max(0, (count // 2).bit_length() - 1)
    return (torch.arange(count) + shift) % count


def _box(weight: float, size: tuple[int, int], row: int, column: int) -> tuple[int, int, int, int]:
    """Return the box with the area (1 - weight) around a pixel, cut off at the border (Yun et al. 2019, eq. 2)."""
    half = [int(0.5 * math.sqrt(1 - weight) * length) for length in size]
    bounds = [
        (max(0, centre - extent), min(length, centre + extent))
        for centre, extent, length in zip((row, column), half, size, strict=True)
    ]
    return (*bounds[0], *bounds[1])
