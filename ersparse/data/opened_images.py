"""Images of other libraries' data sets, which are opened one by one: decoded into arrays, or streamed.

Imports no torch by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from ersparse.data.image_cache import DecodedImages, PixelCounts, Statistics, check_memory
from ersparse.data.image_files import DAMAGED, PixelFormat, fit, quiet, reason
from ersparse.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ersparse.data.crops import OpenImage
    from ersparse.data.streamed import StreamedImages

CHUNK = 64  # images per task of a thread


class OpenedImages(Protocol):
    """The labelled images of one split."""

    @property
    def labels(self) -> np.ndarray:
        """The number of the class of each image, int64 [N]."""

    @property
    def where(self) -> str:
        """The key and value that name the data set, for messages."""

    def open(self, image: int) -> Image.Image:
        """Return an image, upright, which need not be decoded yet."""

    def content(self, image: int) -> bytes | None:
        """Return the file of an image; None if there are only its pixels."""


@dataclass(frozen=True)
class OpenedSource:
    """Decodes the images of a split one by one; an `ersparse.data.streamed.ImageSource`.

    Attributes:
        images: the split.
    """

    images: OpenedImages

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels

    def damage(self, image: int, why: str) -> str:
        return f"{self.images.where}: image {image} cannot be decoded ({why}); must be intact"

    def decode(self, image: int, form: PixelFormat) -> Tensor:
        import torch

        with quiet():
            return torch.from_numpy(fit(opened(self.images, image), form).copy())

    def open(self, image: int, channels: int) -> OpenImage:
        from ersparse.data.crops import PillowImage, open_image

        content = self.images.content(image)
        if content is not None:
            return open_image(bytearray(content), channels)
        return PillowImage(opened(self.images, image), channels)


def opened(images: OpenedImages, image: int) -> Image.Image:
    """Return an image, which need not be decoded yet.

    Raises:
        OSError, SyntaxError, ValueError: it is damaged, or no image.
    """
    try:
        return images.open(image)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise OSError(str(error)) from None


def stream_splits(train: OpenedImages, test: OpenedImages, form: PixelFormat, digest: str) -> StreamedImages:
    """Return images that are decoded whenever they are read."""
    from ersparse.data.streamed import StreamedImages

    return StreamedImages.of(OpenedSource(train), OpenedSource(test), form, digest)


def decode_splits(train: OpenedImages, test: OpenedImages, form: PixelFormat) -> DecodedImages:
    """Decode the images of both splits by threads.

    Raises:
        UserError: they do not fit into memory, or one is damaged.
    """
    check_memory(len(train.labels) + len(test.labels), form)
    arrays = [np.empty((len(part.labels), *form.shape), np.uint8) for part in (train, test)]
    for part, array in zip((train, test), arrays, strict=True):
        for start, images in _chunks(part, form):
            array[start : start + len(images)] = images
    return DecodedImages(arrays[0], train.labels, arrays[1], test.labels)


def scan_splits(train: OpenedImages, test: OpenedImages, form: PixelFormat) -> Statistics:
    """Decode the images of both splits without keeping them, and return their statistics.

    Raises:
        UserError: one is damaged.
    """
    counts = PixelCounts(form.channels)
    for part in (train, test):
        for _, images in _chunks(part, form):
            if part is train:
                counts.add(images)
    classes = 1 + max(int(part.labels.max()) for part in (train, test))
    return Statistics(classes, (len(train.labels), len(test.labels)), *counts.mean_and_std(), [])


def _chunks(part: OpenedImages, form: PixelFormat) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first number and the images of each chunk; threads decode them, a few chunks ahead."""
    count, threads = len(part.labels), os.cpu_count() or 1

    def decode(start: int) -> np.ndarray:
        return np.stack([_checked(part, image, form) for image in range(start, min(start + CHUNK, count))])

    starts = range(0, count, CHUNK)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(starts), threads):
            group = starts[first : first + threads]
            with quiet():  # not in each thread, since filters of warnings belong to the process
                decoded = list(pool.map(decode, group))
            yield from zip(group, decoded, strict=True)


def _checked(part: OpenedImages, image: int, form: PixelFormat) -> np.ndarray:
    try:
        return fit(opened(part, image), form)
    except DAMAGED as error:
        raise UserError(OpenedSource(part).damage(image, reason(error))) from None
