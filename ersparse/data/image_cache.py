"""Decoded images of any source, kept as one npz file with the statistics of their pixels.

Torch is imported only when the file is made or read.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ersparse.errors import UserError

FOLDER = ".ersparse"  # in the folder of the data set
HOME = "~/.cache/ersparse/images"  # where that cannot be written
FORMAT = 1  # of the file
STATISTICS_DIGITS = 3  # decoders of other versions differ in the last digit of pixels; runs must keep their hash
SMALLEST_STD = 0.004  # one step of a uint8 pixel, for channels that are constant
CHUNK = 256  # images whose pixels are counted at a time


class Statistics(NamedTuple):
    """What is known of the decoded images.

    Attributes:
        num_classes: one more than the largest label.
        images: numbers of training and test images.
        mean: of the training images, pixels in [0, 1], by channel.
        std: likewise.
        damaged: names of images that were left out.
    """

    num_classes: int
    images: tuple[int, int]
    mean: list[float]
    std: list[float]
    damaged: list[str]


class DecodedImages(NamedTuple):
    """Images uint8 [N, side, side, C] and labels int64 [N] for training and testing, and names of damaged images."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    damaged: Sequence[str] = ()


@dataclass(frozen=True)
class ImageCache:
    """The npz file of decoded images, in <root>/.ersparse, or in ~/.cache/ersparse/images where that cannot be written.

    Attributes:
        root: folder of the data set.
        key: names the file; decides what it holds.
        decode: returns the images, and is called only if the file is missing.
    """

    root: Path
    key: str
    decode: Callable[[], DecodedImages]

    @functools.cached_property
    def path(self) -> Path:
        """The path of the npz file, which is made if it is missing.

        Raises:
            UserError: the file cannot be written.
        """
        from ersparse.data.npz_cache import make_once

        folders = (self.root.absolute() / FOLDER, Path(HOME).expanduser())
        paths = [folder / f"{self.key}-{FORMAT}.npz" for folder in folders]
        if found := next((path for path in paths if path.exists()), None):
            return found
        content = functools.cache(lambda: _content(self.decode()))
        for path in paths:
            try:
                make_once(path, content)
                return path
            except OSError as error:
                reason = error.strerror or str(error)
        raise UserError(
            f"dataset.root={self.root}: the decoded images cannot be written to {folders[0]} or {folders[1]} ({reason})"
        )

    def statistics(self) -> Statistics:
        """Return the statistics of the images.

        Raises:
            UserError: the file is damaged.
        """
        from ersparse.data.npz_cache import read_source

        try:
            found = json.loads(read_source(self.path) or "")
            return Statistics(**found | {"images": tuple(found["images"])})
        except (KeyError, TypeError, ValueError):  # as json.loads raises, too
            raise UserError(f"{self.path}: damaged or not an npz file; remove it to have it made anew") from None


def check_memory(count: int, side: int, channels: int) -> None:
    """Check that decoded images fit into memory.

    Args:
        count: number of images.
        side: height and width of an image in pixels.
        channels: of an image.

    Raises:
        UserError: they do not.
    """
    needed = count * side**2 * channels
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise UserError(
            f"dataset.image_size={side}: {count} images take {needed / 1e9:.0f} GB, and must fit into memory, "
            f"{available / 1e9:.0f} GB"
        )


def _content(images: DecodedImages) -> dict[str, np.ndarray]:
    """Return the arrays of the npz file; `source` holds the statistics as JSON."""
    arrays = images._asdict()
    damaged = list(arrays.pop("damaged"))
    labels = max(int(images.y_train.max()), int(images.y_test.max()))
    statistics = Statistics(
        labels + 1, (len(images.y_train), len(images.y_test)), *_mean_and_std(images.x_train), damaged
    )
    return arrays | {"source": np.array(json.dumps(statistics._asdict()))}


def _mean_and_std(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of pixels in [0, 1], by channel, rounded."""
    channels = images.shape[3]
    counts = np.zeros((channels, 256))
    for start in range(0, len(images), CHUNK):
        for channel in range(channels):
            counts[channel] += np.bincount(images[start : start + CHUNK, ..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt(np.maximum(counts @ values**2 / counts.sum(1) - mean**2, 0))
    return (
        [round(float(value), STATISTICS_DIGITS) for value in mean],
        [max(round(float(value), STATISTICS_DIGITS), SMALLEST_STD) for value in std],
    )
