"""Random transformations of single images, drawn from (data seed, epoch, image).

They do not depend on the order of images, the number of ranks or worker processes, or what was drawn before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.data.image_files import Box

POLICIES = {"randaugment": "RandAugment", "trivialaugment": "TrivialAugmentWide"}  # classes of torchvision
RATIO = (3 / 4, 4 / 3)  # range of width / height of a crop, torchvision's default


class Choice(NamedTuple):
    """What was drawn for an image.

    Attributes:
        box: of the crop.
        state: of the generator afterwards, from which a policy draws; None if there is none.
    """

    box: Box
    state: Tensor | None


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
        if self.scale is None:
            with seeded(seed):
                return _apply_policy(image, self.policy) if self.policy else image
        choice = self.choose(image.shape[0], image.shape[1], seed)
        top, left, height, width = choice.box
        return self.finish(image[top : top + height, left : left + width], choice)

    def choose(self, height: int, width: int, seed: int) -> Choice:
        """Choose the crop of an image of this size, which may be decoded later."""
        with seeded(seed):
            box = self._choose_box(height, width)
            return Choice(box, torch.get_rng_state() if self.policy else None)

    def finish(self, part: Tensor, choice: Choice) -> Tensor:
        """Return the image made of a chosen crop.

        Args:
            part: the crop, uint8 [height, width, C] of `choice.box`.
            choice: of the image.
        """
        image = self._resized(part)
        if self.policy is None or choice.state is None:
            return image
        with drawing_from(choice.state):
            return _apply_policy(image, self.policy)

    def _choose_box(self, height: int, width: int) -> Box:
        from torchvision.transforms import RandomResizedCrop

        assert self.scale
        image = torch.empty(1, height, width, device="meta")
        box: Box = RandomResizedCrop.get_params(image, list(self.scale), list(RATIO))
        return box

    def _resized(self, crop: Tensor) -> Tensor:
        # with the strides of a contiguous batch in channels-last layout, in which the result then is as well
        planes = crop.contiguous()[None].permute(0, 3, 1, 2)
        return F.interpolate(planes, size=self.size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)


def transform_of(settings: DatasetSettings) -> ImageTransform | None:
    """Return the transformation of single training images; None if crops and flips are all."""
    scale = settings.crop_scale if settings.geometry == "resized_crop" else None
    return ImageTransform(settings.size, scale, settings.policy) if scale or settings.policy else None


def image_seed(seed: int, epoch: int, image: int) -> int:
    """Return the seed of an image's transformation in an epoch, in [0, 2**63)."""
    return int(np.random.SeedSequence((seed, epoch, image)).generate_state(1, np.uint64)[0] >> 1)


def seeded(seed: int) -> AbstractContextManager[None]:
    """Seed PyTorch's generator of the CPU, which torchvision draws from, and restore it afterwards."""
    return drawing_from(torch.Generator().manual_seed(seed).get_state())


@contextmanager
def drawing_from(state: Tensor) -> Iterator[None]:
    """Set the state of PyTorch's generator of the CPU, and restore it afterwards."""
    before = torch.get_rng_state()
    torch.set_rng_state(state)
    try:
        yield
    finally:
        torch.set_rng_state(before)


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
