"""What worker processes run: they read and transform images, and write them into memory that all processes share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ersparse.data.streamed import StreamedPart
from ersparse.data.transforms import ImageTransform, image_seed
from ersparse.errors import RunFailed

CHUNK = 32  # images of a request, at most
SHARED_MEMORY = "/dev/shm"


class Request(NamedTuple):
    """Images to read.

    Attributes:
        part: number of the split.
        images: their numbers.
        epoch: in which they are seen; None for evaluation, which does not transform them.
    """

    part: int
    images: list[int]
    epoch: int | None


@dataclass(frozen=True)
class ImageReader:
    """Reads images and transforms those of training.

    Attributes:
        parts: the images of each split: uint8 [N, height, width, C], or streamed.
        transform: of a training image; None leaves it.
        seed: data seed.
    """

    parts: Sequence[Tensor | StreamedPart]
    transform: ImageTransform | None
    seed: int

    def read(self, request: Request, out: Tensor | None = None) -> Tensor | str:
        """Return images, uint8 [n, height, width, C], or the message of an error, which has to reach the main process.

        An exception would arrive with the traceback of the worker in its text.

        Args:
            request: the images to read.
            out: memory for them, of the same type and shape.
        """
        try:
            return torch.stack(self._read(request), out=out)
        except RunFailed as error:
            return str(error)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        _, height, width, channels = self.parts[0].shape
        return height, width, channels

    def _read(self, request: Request) -> list[Tensor]:
        part, transform = self.parts[request.part], self.transform
        if transform is None or request.epoch is None:
            return [part[image] if isinstance(part, Tensor) else part.read(image) for image in request.images]
        seeds = [image_seed(self.seed, request.epoch, image) for image in request.images]
        if isinstance(part, StreamedPart) and transform.scale:
            return _crops(part, transform, request.images, seeds)
        whole = (part[image] if isinstance(part, Tensor) else part.read(image) for image in request.images)
        return [transform(image, seed) for image, seed in zip(whole, seeds, strict=True)]


def _crops(part: StreamedPart, transform: ImageTransform, images: Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
    """Return resized crops. All are chosen before the first image is decoded.

    Decoding replaces what is in the processor's cache, and choosing between two images would take three times as long.
    """
    opened = [part.open(image) for image in images]
    choices = [transform.choose(*one.size, seed) for one, seed in zip(opened, seeds, strict=True)]
    return [
        transform.finish(part.read_box(image, one, choice.box), choice)
        for image, one, choice in zip(images, opened, choices, strict=True)
    ]


@dataclass(frozen=True)
class SharedImages(Dataset[Any]):
    """Memory that all processes share, into which workers write the images of their requests.

    It is kept for all epochs. Memory of its own for each request, as a DataLoader takes it, is cleared by the kernel
    page by page, which takes longer than writing the images does.

    Attributes:
        reader: reads the images.
        images: uint8 [slots, CHUNK, height, width, C].
    """

    reader: ImageReader
    images: Tensor

    @classmethod
    def of(cls, reader: ImageReader, slots: int) -> SharedImages:
        """Take memory for as many requests as `slots`.

        Raises:
            RunFailed: `SHARED_MEMORY` has no room, or cannot be written.
        """
        shape = (slots, CHUNK, *reader.shape)
        try:
            storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            reason = str(error).rpartition(": ")[2]  # of the operating system: no space left, read-only, no such file
            message = f"the images that are read ahead need {math.prod(shape):,} bytes of {SHARED_MEMORY} ({reason})"
            raise RunFailed(f"{message}; dataset.workers=0 needs none, and a smaller dataset.batch_size less") from None
        return cls(reader, torch.empty(0, dtype=torch.uint8).set_(storage).reshape(shape))

    def __getitem__(self, numbered: tuple[int, Request]) -> int | str:
        """Write the images of a request, and return their number, or the message of an error."""
        number, request = numbered
        count = len(request.images)
        found = self.reader.read(request, self.of_request(number, count))
        return found if isinstance(found, str) else count

    def of_request(self, number: int, count: int) -> Tensor:
        """Return the images of the request of a number, uint8 [count, height, width, C]."""
        return self.images[number % len(self.images), :count]
