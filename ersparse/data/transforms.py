"""Random transformations of single images, drawn from (data seed, epoch, image).

They do not depend on the order of images, the number of ranks or worker processes, or what was drawn before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ersparse.config.schema import DatasetSettings
from ersparse.data.image_files import Box

ChooseBox = Callable[[int, int], Box]  # of an image's height and width

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

        def read(choose: ChooseBox | None) -> Tensor:
            if choose is None:
                return image
            top, left, height, width = choose(image.shape[0], image.shape[1])
            return image[top : top + height, left : left + width]

        return self.apply(read, seed)

    def apply(self, read: Callable[[ChooseBox | None], Tensor], seed: int) -> Tensor:
        """Transform an image that is still to be read, so that only its crop has to be copied.

        Args:
            read: returns the crop of the image that a function of its height and width chooses, or, for None, the image
                in `size`; uint8 [height, width, C].
            seed: of the choices (`image_seed`).
        """
        with seeded(seed):
            image = self._resized(read(self._choose_box)) if self.scale else read(None)
            return _apply_policy(image, self.policy) if self.policy else image

    def _choose_box(self, height: int, width: int) -> Box:
        from torchvision.transforms import RandomResizedCrop

        assert self.scale
        image = torch.empty(1, height, width, device="meta")
        box: Box = RandomResizedCrop.get_params(image, list(self.scale), list(RATIO))
        return box

    def _resized(self, crop: Tensor) -> Tensor:
        planes = crop.permute(2, 0, 1)[None]
        return F.interpolate(planes, size=self.size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def transform_of(settings: DatasetSettings) -> ImageTransform | None:
    """Return the transformation of single training images; None if crops and flips are all."""
    scale = settings.crop_scale if settings.geometry == "resized_crop" else None
    return ImageTransform(settings.size, scale, settings.policy) if scale or settings.policy else None


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
