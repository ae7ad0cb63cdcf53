"""Whether the images of a data set are kept in memory or streamed. Imports no torch.

The choice never changes results: both give the same images, except for crops of the originals, which are streamed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ersparse.data.image_cache import memory
from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.config.dataset_settings import DatasetSettings

MEMORY_SHARE = 0.5  # of this machine's memory, up to which decoded images are kept in it
T = TypeVar("T")


def streamed_by(stream: Callable[..., Any]) -> Callable[[T], T]:
    """Return a decorator that attaches `stream`, which returns the images of a data set without decoding them."""

    def attach(load: T) -> T:
        load.stream = stream  # type: ignore[attr-defined]
        return load

    return attach


def is_streamed(dataset: DatasetSettings, images: tuple[int, int] | None) -> bool:
    """Return whether the images of a data set are streamed.

    Args:
        dataset: its settings.
        images: numbers of training and test images; None if they are not known.

    Raises:
        UserError: `dataset.in_memory` asks for what the data set cannot do.
    """
    asked, originals = dataset.in_memory, dataset.geometry == "resized_crop"
    if not hasattr(dataset.resolve(), "stream"):
        if asked is False:
            raise UserError(f"dataset.in_memory=false: must be auto or true with dataset={dataset.name}")
        return False
    if asked is True and originals:
        raise UserError(
            "dataset.in_memory=true: must be auto or false with dataset.transforms=resized_crop, which crops the "
            "images in their own size"
        )
    if asked != "auto" or originals:
        return asked is False or originals
    pixels = math.prod(dataset.size) * dataset.channels
    return images is not None and sum(images) * pixels > MEMORY_SHARE * memory()
