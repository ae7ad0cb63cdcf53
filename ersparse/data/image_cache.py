"""Decoded images of any source, kept as one npz file with the statistics of their pixels.

Torch is imported only when the file is made or read.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ersparse.data.image_files import PixelFormat
from ersparse.errors import UserError
from ersparse.storage.atomic import write_json
from ersparse.storage.locks import exclusive

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
    """Images uint8 [N, height, width, C] and labels int64 [N] for training and testing, and names of damaged images."""

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

        content = functools.cache(lambda: _content(self.decode()))
        return kept_file(self.root, self._name, "the decoded images", lambda path: make_once(path, content))

    @property
    def _name(self) -> str:
        return f"{self.key}-{FORMAT}.npz"

    def exists(self) -> bool:
        """Return whether the file has been made."""
        return any(path.exists() for path in _places(self.root, self._name))

    def statistics(self) -> Statistics:
        """Return the statistics of the images.

        Raises:
            UserError: the file is damaged.
        """
        from ersparse.data.npz_cache import read_source

        return _statistics(self.path, read_source(self.path) or "")


def kept_file(root: Path, name: str, what: str, make: Callable[[Path], None]) -> Path:
    """Return the path of a file of the data set's cache, which `make` writes if it is missing.

    Args:
        root: folder of the data set.
        name: of the file.
        what: it holds, for the message.
        make: writes the file, once if several processes call it.

    Raises:
        UserError: the file can be written neither beside the data set nor in the home folder.
    """
    paths = _places(root, name)
    if found := next((path for path in paths if path.exists()), None):
        return found
    for path in paths:
        try:
            make(path)
            return path
        except OSError as error:
            reason = error.strerror or str(error)
    folders = " or ".join(str(path.parent) for path in paths)
    raise UserError(f"dataset.root={root}: {what} cannot be written to {folders} ({reason})")


def _places(root: Path, name: str) -> tuple[Path, Path]:
    """Return where a file of the data set's cache may be."""
    return root.absolute() / FOLDER / name, Path(HOME).expanduser() / name


def kept_statistics(root: Path, key: str, scan: Callable[[], Statistics]) -> Statistics:
    """Return the statistics of images that are streamed, from a file that is written after a scan of all images.

    Args:
        root: folder of the data set.
        key: names the file; decides what it holds.
        scan: returns the statistics, and is called only if the file is missing.

    Raises:
        UserError: the file is damaged or cannot be written.
    """

    def make(path: Path) -> None:
        with exclusive(path.with_name(f".{path.stem}.lock"), product=path):
            if not path.exists():
                write_json(path, scan()._asdict())

    path = kept_file(root, f"{key}-{FORMAT}.json", "the statistics of the images", make)
    return _statistics(path, path.read_text("utf-8", errors="replace"))


def _statistics(path: Path, text: str) -> Statistics:
    try:
        found = json.loads(text)
        return Statistics(**found | {"images": tuple(found["images"])})
    except (KeyError, TypeError, ValueError):  # as json.loads raises, too
        raise UserError(f"{path}: damaged or not an npz file; remove it to have it made anew") from None


def check_memory(count: int, form: PixelFormat) -> None:
    """Check that decoded images fit into memory.

    Args:
        count: number of images.
        form: of the images.

    Raises:
        UserError: they do not.
    """
    needed, available = count * math.prod(form.shape), memory()
    if needed > available:
        raise UserError(
            f"dataset.image_size={form.size[0]}: {count} images take {needed / 1e9:.0f} GB, and must fit into memory, "
            f"{available / 1e9:.0f} GB"
        )


def memory() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
    counts = PixelCounts(images.shape[3])
    for start in range(0, len(images), CHUNK):
        counts.add(images[start : start + CHUNK])
    return counts.mean_and_std()


class PixelCounts:
    """How often each value of a uint8 pixel occurs.

    Args:
        channels: of the images.
    """

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 256))

    def add(self, images: np.ndarray) -> None:
        """Count the pixels of images, uint8 [n, height, width, C]."""
        for channel, counts in enumerate(self.counts):
            counts += np.bincount(images[..., channel].ravel(), minlength=256)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of pixels in [0, 1], by channel, rounded."""
        values, totals = np.arange(256) / 255, self.counts.sum(1)
        mean = self.counts @ values / totals
        std = np.sqrt(np.maximum(self.counts @ values**2 / totals - mean**2, 0))
        return (
            [round(float(value), STATISTICS_DIGITS) for value in mean],
            [max(round(float(value), STATISTICS_DIGITS), SMALLEST_STD) for value in std],
        )
