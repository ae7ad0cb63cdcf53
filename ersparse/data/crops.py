"""Parts of images in their own size, decoded by the faster one of two decoders that give the same pixels.

Pillow decodes every format. torchvision's `decode_jpeg` uses the same library for JPEG files, without Pillow's copies,
and the part is then a view of the image.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ersparse.data.image_files import ORIENTATION, Box, crop, quiet, upright


@cache
def jpeg_decoder() -> Callable[[Tensor], Tensor] | None:
    """Return torchvision's decoder, which is announced to be removed; imported here, since that takes seconds."""
    from torchvision import io as torchvision_io

    return getattr(torchvision_io, "decode_jpeg", None)


class OpenImage(Protocol):
    """An image whose size is known, and which need not be decoded yet."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def read(self, box: Box) -> Tensor:
        """Return a part of the image, uint8 [height, width, C].

        Raises:
            OSError, SyntaxError, ValueError: the image is damaged.
        """


@dataclass(frozen=True)
class PillowImage:
    """An image that Pillow decodes.

    Attributes:
        image: the image, upright.
        channels: 1 for gray values, 3 for RGB.
    """

    image: Image.Image
    channels: int

    @property
    def size(self) -> tuple[int, int]:
        return self.image.height, self.image.width

    def read(self, box: Box) -> Tensor:
        with quiet():
            return torch.from_numpy(crop(self.image, self.channels, box))


@dataclass(frozen=True)
class JpegImage:
    """A JPEG file that is upright and has the channels asked for.

    Attributes:
        content: of the file.
        size: height and width in pixels.
        channels: 1 for gray values, 3 for RGB.
        decode: function from the bytes of a JPEG file to its pixels [C, height, width].
    """

    content: bytearray
    size: tuple[int, int]
    channels: int
    decode: Callable[[Tensor], Tensor]

    def read(self, box: Box) -> Tensor:
        top, left, height, width = box
        try:
            with quiet():
                planes = self.decode(torch.frombuffer(self.content, dtype=torch.uint8))
            return planes[:, top : top + height, left : left + width].permute(1, 2, 0)
        except RuntimeError:  # damaged, which Pillow reports
            return PillowImage(Image.open(io.BytesIO(self.content)), self.channels).read(box)


def open_image(content: bytearray, channels: int) -> OpenImage:
    """Return an image, rotated as its EXIF data says.

    Args:
        content: of the file.
        channels: 1 for gray values, 3 for RGB.

    Raises:
        OSError, SyntaxError, ValueError: the file is damaged.
    """
    with quiet():
        image = Image.open(io.BytesIO(content))
        turned = image.getexif().get(ORIENTATION, 1) != 1
        fits = image.format == "JPEG" and not turned and (channels, image.mode) in ((3, "RGB"), (1, "L"))
        if fits and (decode := jpeg_decoder()):
            return JpegImage(content, (image.height, image.width), channels, decode)
        return PillowImage(upright(image), channels)
