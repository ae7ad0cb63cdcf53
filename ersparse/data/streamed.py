"""Data sets whose images are decoded whenever they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ersparse.data.arrays import Arrays
from ersparse.data.crops import OpenImage, open_image
from ersparse.data.file_table import FileTable
from ersparse.data.folder_listing import shown
from ersparse.data.image_files import DAMAGED, Box, PixelFormat, decode, reason
from ersparse.errors import RunFailed, UserError

T = TypeVar("T")


class ImageSource(Protocol):
    """Images that can be decoded one by one, with their labels."""

    @property
    def labels(self) -> np.ndarray:
        """The number of the class of each image, int64 [N]."""

    def damage(self, image: int, why: str) -> str:
        """Return the message for an image that cannot be decoded."""

    def decode(self, image: int, form: PixelFormat) -> Tensor:
        """Return an image resized and cropped to its centre, uint8 [height, width, C]."""

    def open(self, image: int, channels: int) -> OpenImage:
        """Return an image in its own size, which need not be decoded yet."""


@dataclass(frozen=True)
class FileSource:
    """Image files.

    Attributes:
        root: folder of the data set.
        files: names below it, and labels.
    """

    root: str
    files: FileTable

    @property
    def labels(self) -> np.ndarray:
        return self.files.labels

    def damage(self, image: int, why: str) -> str:
        return (
            f"dataset.damaged=error: {shown(self.files[image].name)} cannot be decoded ({why}); must be repaired or "
            "removed, or left out by dataset.damaged=skip"
        )

    def decode(self, image: int, form: PixelFormat) -> Tensor:
        return torch.from_numpy(decode(self._path(image), form).copy())

    def open(self, image: int, channels: int) -> OpenImage:
        return open_image(bytearray(Path(self._path(image)).read_bytes()), channels)

    def _path(self, image: int) -> str:
        return f"{self.root}/{self.files[image].name}"


@dataclass(frozen=True)
class StreamedPart:
    """The images of one split, which can be indexed as a tensor [N, height, width, C] of uint8.

    Attributes:
        source: decodes them.
        form: of the images.
    """

    source: ImageSource
    form: PixelFormat

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all images, [N, height, width, C]."""
        return (len(self), *self.form.shape)

    def __len__(self) -> int:
        return len(self.source.labels)

    def __getitem__(self, index: Any) -> Tensor:
        """Return the images at a number, a slice, or a tensor or list of numbers."""
        numbers = torch.arange(len(self))[index]
        if numbers.dim() == 0:
            return self.read(int(numbers))
        empty = torch.empty(0, *self.form.shape, dtype=torch.uint8)
        return torch.stack([self.read(number) for number in numbers.tolist()]) if len(numbers) else empty

    def read(self, image: int) -> Tensor:
        """Return an image resized and cropped to its centre, uint8 [height, width, C].

        Raises:
            RunFailed: the image is damaged.
        """
        return self._intact(image, lambda: self.source.decode(image, self.form))

    def open(self, image: int) -> OpenImage:
        """Return an image in its own size, which need not be decoded yet.

        Raises:
            RunFailed: the image is damaged.
        """
        return self._intact(image, lambda: self.source.open(image, self.form.channels))

    def read_box(self, image: int, opened: OpenImage, box: Box) -> Tensor:
        """Return a part of an image that `open` returned, uint8 [height, width, C].

        Raises:
            RunFailed: the image is damaged.
        """
        return self._intact(image, lambda: opened.read(box))

    def _intact(self, image: int, decoded: Callable[[], T]) -> T:
        try:
            return decoded()
        except DAMAGED as error:
            raise RunFailed(self.source.damage(image, reason(error))) from None


@dataclass(frozen=True)
class StreamedImages:
    """A data set for image classification whose images are not kept in memory; see `Arrays`.

    Attributes:
        x_train, x_test: images, which are decoded when they are indexed.
        y_train, y_test: labels, int64 [N].
        digest: of the files; a run is resumed with the same only.
        damaged: names of images that were left out.
    """

    x_train: StreamedPart
    y_train: Tensor
    x_test: StreamedPart
    y_test: Tensor
    digest: str
    damaged: Sequence[str] = ()

    @classmethod
    def of(
        cls, train: ImageSource, test: ImageSource, form: PixelFormat, digest: str, damaged: Sequence[str] = ()
    ) -> StreamedImages:
        """Return the data set of two sources."""
        labels = (torch.from_numpy(source.labels) for source in (train, test))
        y_train, y_test = labels
        return cls(StreamedPart(train, form), y_train, StreamedPart(test, form), y_test, digest, damaged)

    def check(self, where: str, num_classes: int) -> StreamedImages:
        """Validate the labels, and return the data set itself.

        Raises:
            UserError: one line that names the labels and what they must be.
        """
        for part, y in (("train", self.y_train), ("test", self.y_test)):
            if not len(y):
                raise UserError(f"{where}: has no {part} images; must have some")
            if y.min() < 0 or y.max() >= num_classes:
                raise UserError(f"{where}: y_{part} has labels {y.min()}..{y.max()}, must lie in [0, {num_classes})")
        return self


ImageData = Arrays | StreamedImages
