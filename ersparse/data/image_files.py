"""Decoding of image files of any size in parallel. Each worker process imports this module, so it imports no torch."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif"),
)
GRAY_MODES = ("1", "L", "LA", "La", "I", "F")  # and those that begin with I;16
ORIENTATION = 0x0112  # tag of EXIF data
CHUNK = 256  # images per task of a worker
PARALLEL_THRESHOLD = 32 << 20  # bytes of all files; fewer are decoded before worker processes have started


Box = tuple[int, int, int, int]  # top, left, height, width
# raised for images that are damaged, by Pillow as well
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class PixelFormat(NamedTuple):
    """The form in which images are decoded.

    Attributes:
        size: height and width in pixels.
        channels: 1 for gray values, 3 for RGB.
        resize: length of the shorter side from which `size` is cropped; None resizes to cover `size` exactly.
    """

    size: tuple[int, int]
    channels: int
    resize: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a decoded image, [height, width, C]."""
        return (*self.size, self.channels)

    @property
    def key(self) -> str:
        """The format as part of a file name."""
        height, width = self.size
        side = str(height) if height == width else f"{height}x{width}"
        return f"{side}-{self.channels}" if self.resize is None else f"{side}of{self.resize}-{self.channels}"


class Decoded(NamedTuple):
    """A chunk of decoded images.

    Attributes:
        images: uint8 [N, height, width, C]; a damaged image is black.
        damaged: position in the chunk of each damaged image, and the reason.
    """

    images: np.ndarray
    damaged: list[tuple[int, str]]


def is_gray(path: Path) -> bool:
    """Return whether the header of an image says that it is grayscale; a damaged image is taken to be."""
    try:
        with Image.open(path) as image:
            return is_gray_mode(image.mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of corrupt EXIF data, or of a large image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(path: Path | str, form: PixelFormat) -> np.ndarray:
    """Decode an image to uint8 [height, width, C], rotated as its EXIF data says. See `fit`.

    Args:
        path: of the file; of an animation the first frame is taken.
        form: of the result.

    Raises:
        OSError, SyntaxError, ValueError: the file is damaged or cannot be read.
    """
    with quiet(), Image.open(path) as image:
        return fit(upright(image), form)


def crop(image: Image.Image, channels: int, box: Box) -> np.ndarray:
    """Return a part of an image as uint8 [height, width, channels], gray values or RGB without transparency."""
    top, left, height, width = box
    part = _converted(image, channels).crop((left, top, left + width, top + height))
    return np.array(part).reshape(height, width, channels)


def fit(image: Image.Image, form: PixelFormat) -> np.ndarray:
    """Return an image as uint8 [height, width, C].

    It is converted to gray values or to RGB without transparency, resized so that it just covers the size asked for, or
    so that its shorter side has `form.resize` pixels (bilinear, antialiased), and cropped to its centre, as
    torchvision's `Resize` and `CenterCrop` do.

    Args:
        image: of any size and mode.
        form: of the result.
    """
    return np.asarray(_centre(_converted(image, form.channels), form)).reshape(form.shape)


def _converted(image: Image.Image, channels: int) -> Image.Image:
    if is_gray_mode(image.mode) and image.mode[0] in "IF":
        image = _eight_bits(image)
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)  # convert would copy


def upright(image: Image.Image) -> Image.Image:
    """Return an image rotated as its EXIF data says; most are not, and `exif_transpose` would copy them."""
    return ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image


def decode_all(paths: Iterable[Path | str], bytes_in_all: int, form: PixelFormat) -> Iterator[Decoded]:
    """Decode images in parallel processes, and yield chunks of at most `CHUNK` images in order.

    Args:
        paths: of the files.
        bytes_in_all: size of all files.
        form: of the results.
    """
    workers = 1 if bytes_in_all <= PARALLEL_THRESHOLD else os.cpu_count() or 1
    remaining = iter(paths)
    chunks = iter(lambda: list(itertools.islice(remaining, CHUNK)), [])
    decoded: Iterator[Decoded] = Parallel(workers, return_as="generator")(
        delayed(_decode_chunk)(chunk, form) for chunk in chunks
    )
    return decoded


def _decode_chunk(paths: Sequence[Path | str], form: PixelFormat) -> Decoded:
    found = Decoded(np.zeros((len(paths), *form.shape), np.uint8), [])
    for number, path in enumerate(paths):
        try:
            found.images[number] = decode(path, form)
        except DAMAGED as error:
            found.damaged.append((number, reason(error)))
    return found


def reason(error: BaseException) -> str:
    """Return why an image could not be decoded, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split(" '/")[0].split()) or type(error).__name__


def is_gray_mode(mode: str) -> bool:
    return mode in GRAY_MODES or mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return gray values of 16 bits, or of floats in [0, 1], as bytes; Pillow's own conversion clips them."""
    values = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 255 / 65535)
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _centre(image: Image.Image, form: PixelFormat) -> Image.Image:
    """Resize an image as `fit` says, and return its centre."""
    height, width = form.size
    least_width, least_height = (form.resize, form.resize) if form.resize else (width, height)
    if image.width * least_height <= image.height * least_width:
        size = (least_width, max(least_height, int(least_width * image.height / image.width)))
    else:
        size = (max(least_width, int(least_height * image.width / image.height)), least_height)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((extent - length) / 2.0) for extent, length in zip(size, (width, height), strict=True))
    return image.crop((left, top, left + width, top + height))
