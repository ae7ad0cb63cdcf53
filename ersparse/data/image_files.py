"""Decoding of image files of any size in parallel. Each worker process imports this module, so it imports no torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from PIL import Image, ImageOps

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
GRAY_MODES = ("1", "L", "LA", "La", "I", "F")  # and those that begin with I;16
CHUNK = 256  # images per task of a worker
PARALLEL_THRESHOLD = 32 << 20  # bytes of all files; fewer are decoded before worker processes have started


class Decoded(NamedTuple):
    """A chunk of decoded images.

    Attributes:
        images: uint8 [N, side, side, C]; a damaged image is black.
        damaged: position in the chunk of each damaged image, and the reason.
    """

    images: np.ndarray
    damaged: list[tuple[int, str]]


def is_gray(path: Path) -> bool:
    """Return whether the header of an image says that it is grayscale; a damaged image is taken to be."""
    try:
        with Image.open(path) as image:
            return _is_gray(image.mode)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True


def decode(path: Path, side: int, channels: int) -> np.ndarray:
    """Decode an image to uint8 [side, side, channels], rotated as its EXIF data says. See `square`.

    Args:
        path: of the file; of an animation the first frame is taken.
        side: height and width of the result in pixels.
        channels: 1 for gray values, 3 for RGB.

    Raises:
        OSError, SyntaxError, ValueError: the file is damaged or cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of corrupt EXIF data, or of a large image
        with Image.open(path) as image:
            return square(ImageOps.exif_transpose(image), side, channels)


def square(image: Image.Image, side: int, channels: int) -> np.ndarray:
    """Return an image as uint8 [side, side, channels].

    It is converted to gray values or to RGB without transparency, resized so that its shorter side has `side` pixels
    (bilinear, antialiased), and cropped to its centre, as torchvision's `Resize` and `CenterCrop` do.

    Args:
        image: of any size and mode.
        side: height and width of the result in pixels.
        channels: 1 for gray values, 3 for RGB.
    """
    if _is_gray(image.mode) and image.mode[0] in "IF":
        image = _eight_bits(image)
    converted = image.convert("RGB" if channels == 3 else "L")
    return np.asarray(_centre(converted, side)).reshape(side, side, channels)


def decode_all(paths: Sequence[Path], bytes_in_all: int, side: int, channels: int) -> Iterator[Decoded]:
    """Decode images in parallel processes, and yield chunks of at most `CHUNK` images in order.

    Args:
        paths: of the files.
        bytes_in_all: size of all files.
        side: height and width of the results in pixels.
        channels: 1 or 3.
    """
    workers = 1 if bytes_in_all <= PARALLEL_THRESHOLD else os.cpu_count() or 1
    chunks = (paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK))
    decoded: Iterator[Decoded] = Parallel(workers, return_as="generator")(
        delayed(_decode_chunk)(chunk, side, channels) for chunk in chunks
    )
    return decoded


def _decode_chunk(paths: Sequence[Path], side: int, channels: int) -> Decoded:
    found = Decoded(np.zeros((len(paths), side, side, channels), np.uint8), [])
    for number, path in enumerate(paths):
        try:
            found.images[number] = decode(path, side, channels)
        except OSError as error:
            found.damaged.append((number, error.strerror or _reason(error)))
        except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:  # raised by Pillow as well
            found.damaged.append((number, _reason(error)))
    return found


def _reason(error: Exception) -> str:
    return " ".join(str(error).split(" '/")[0].split()) or type(error).__name__


def _is_gray(mode: str) -> bool:
    return mode in GRAY_MODES or mode.startswith("I;16")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return gray values of 16 bits, or of floats in [0, 1], as bytes; Pillow's own conversion clips them."""
    values = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 255 / 65535)
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _centre(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its shorter side has `side` pixels, and return the square in its centre."""
    shorter, longer = sorted(image.size)
    length = int(side * longer / shorter)
    size = (side, length) if image.width <= image.height else (length, side)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((extent - side) / 2.0) for extent in size)
    return image.crop((left, top, left + side, top + side))
