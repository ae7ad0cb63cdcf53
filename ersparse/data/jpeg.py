"""Decoding many small images, on all cores. Imports little, since each process that helps imports it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

Named = tuple[str, bytes]  # name and content of a file

CHUNK = 512  # images that a process takes at a time
FEW = 4096  # images that are decoded before other processes have started


def decode(images: Sequence[Named], side: int) -> np.ndarray:
    """uint8 [N, side, side, 3]; grey images get three equal channels.

    Raises:
        ValueError: names the image, and says what is wrong with it.
    """
    decoded = np.empty((len(images), side, side, 3), np.uint8)
    for number, (name, data) in enumerate(images):
        try:
            with Image.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises for damaged images
            raise ValueError(f"{name} cannot be decoded ({str(error).split(' <')[0]})") from None
        if pixels.shape != decoded.shape[1:]:
            raise ValueError(f"{name} has {pixels.shape[1]}x{pixels.shape[0]} pixels, must have {side}x{side}")
        decoded[number] = pixels
    return decoded


def decode_all(chunks: Iterator[Sequence[Named]], count: int, side: int) -> Iterator[np.ndarray]:
    """`decode` of each chunk, in their order.

    By processes: images of this size spend their time in the interpreter, and a second thread made 8 000 images a
    second 6 000.
    """
    workers = 1 if count <= FEW else os.cpu_count() or 1
    decoded: Iterator[np.ndarray] = Parallel(workers, return_as="generator")(delayed(decode)(c, side) for c in chunks)
    return decoded
