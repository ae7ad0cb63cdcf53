"""Random transformations of single images, drawn from (data seed, epoch, image).

They do not depend on the order of images, the number of ranks or worker processes, or what was drawn before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ersparse.config.schema import DatasetSettings

POLICIES = {"randaugment": "RandAugment", "trivialaugment": "TrivialAugmentWide"}  # classes of torchvision
RATIO = (3 / 4, 4 / 3)  # range of width / height of a crop, torchvision's default


@dataclass(frozen=True)
class ImageTransform:
    """A resized crop (Szegedy et al. 2015), an augmentation policy, or both, in this order.

    Attributes:
        size: height and width of the result in pixels.
        scale: range of the area of the crop, as a fraction of the image; None leaves out the crop.
        policy: "randaugment" (Cubuk et al. 2020) or "trivialaugment" (Müller & Hutter 2021), with the parameters that
            are torchvision's default; None leaves it out.
    """

    size: tuple[int, int]
    scale: tuple[float, float] | None = None
    policy: str | None = None

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Transform an image, uint8 [height, width, C], to uint8 of the same layout and of `size`.

        Args:
            image: of any size if there is a crop, else of `size`.
            seed: of the choices (`image_seed`).
        """
        with seeded(seed):
            if self.scale:
                image = self._resized_crop(image, self.scale)
            if self.policy:
                image = _apply_policy(image, self.policy)
        return image

    def _resized_crop(self, image: Tensor, scale: tuple[float, float]) -> Tensor:
        from torchvision.transforms import RandomResizedCrop

        planes = image.permute(2, 0, 1)
        top, left, height, width = RandomResizedCrop.get_params(planes, list(scale), list(RATIO))
        crop = planes[None, :, top : top + height, left : left + width]
        resized = F.interpolate(crop, size=self.size, mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0)


def transform_of(settings: DatasetSettings) -> ImageTransform | None:
    """Return the transformation of single training images; None if crops and flips are all."""
    size = (settings.image_size, settings.image_size)
    scale = settings.crop_scale if settings.geometry == "resized_crop" else None
    return ImageTransform(size, scale, settings.policy) if scale or settings.policy else None


def image_seed(seed: int, epoch: int, image: int) -> int:
    """Return the seed of an image's transformation in an epoch, in [0, 2**63)."""
    return int(np.random.SeedSequence((seed, epoch, image)).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch's generator of the CPU, which torchvision draws from, and restore it afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _apply_policy(image: Tensor, policy: str) -> Tensor:
    """Apply an augmentation policy by Pillow, which is several times faster than torchvision's tensor operations."""
    from PIL import Image

    pixels = image.numpy()
    gray = pixels.shape[2] == 1
    made = _policy(policy)(Image.fromarray(pixels[..., 0] if gray else pixels))
    return torch.from_numpy(np.array(made)).reshape(image.shape)


@cache
def _policy(name: str) -> Any:
    from torchvision.transforms import v2

    return getattr(v2, POLICIES[name])()
