"""Loading the images that a run names, checked and resized."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.data.arrays import Arrays
from ersparse.data.image_files import PixelFormat
from ersparse.data.placement import is_streamed
from ersparse.data.streamed import ImageData, StreamedImages
from ersparse.errors import UserError
from ersparse.locate import own_code


def load_arrays(dataset: DatasetSettings) -> ImageData:
    """Return the images of a data set, checked and in the size asked for, in memory or to be streamed.

    Raises:
        UserError: the images are missing or not as `dataset` describes them, or `dataset.validation` leaves fewer than
            two training images or no validation image.
    """
    function, where = dataset.resolve(), f"dataset={dataset.name}"
    found: ImageData
    if is_streamed(dataset, dataset.images):
        streamed: StreamedImages = _call(function.stream, dataset)
        found = streamed.check(where, dataset.num_classes)
    else:
        arrays = _call(function, dataset)
        if not isinstance(arrays, Arrays):
            raise UserError(
                f"{where}: {dataset.target} returns {type(arrays).__name__}, must return ersparse.data.arrays.Arrays"
            )
        found = arrays.check(where, dataset.num_classes, dataset.channels, dataset.size).resized(*dataset.size)
    held_out = round(dataset.validation * len(found.y_train))
    if len(found.y_train) - held_out < 2 or (dataset.validation and not held_out):
        raise UserError(
            f"dataset.validation={dataset.validation}: leaves {len(found.y_train) - held_out} training and "
            f"{held_out} validation images; must leave at least two training images, and a validation image unless 0"
        )
    return found


def _call(function: Any, dataset: DatasetSettings) -> Any:
    """Call the function of a data set, with those of its fields that it takes and all of its own keys."""
    fields = {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "num_classes": dataset.num_classes,
        "form": PixelFormat(dataset.size, dataset.channels, dataset.resize),
    }
    takes = inspect.signature(function).parameters
    passed = {key: value for key, value in fields.items() if key in takes}
    with own_code(f"dataset={dataset.name}", dataset.target):
        return function(Path(dataset.root), dataset.download, **passed, **dataset.own_keys())
