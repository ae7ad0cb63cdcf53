"""Loading the images that a run names, checked and resized."""

from __future__ import annotations

import inspect
from pathlib import Path

from ersparse.config.schema import DatasetSettings
from ersparse.data.arrays import Arrays
from ersparse.errors import UserError

PASSED_IF_TAKEN = ("image_size", "channels")  # fields that are passed to functions with an argument of that name


def load_arrays(dataset: DatasetSettings) -> Arrays:
    """Return the images of a data set, checked and in the size asked for.

    Raises:
        UserError: the images are missing or not as `dataset` describes them, or `dataset.validation` leaves fewer than
            two training images or no validation image.
    """
    function = dataset.resolve()
    takes = [key for key in PASSED_IF_TAKEN if key in inspect.signature(function).parameters]
    fields = {key: getattr(dataset, key) for key in takes}
    arrays: Arrays = function(Path(dataset.root), dataset.download, **fields, **dataset.own_keys())
    arrays = arrays.check(f"dataset={dataset.name}", dataset.num_classes, dataset.channels).resized(dataset.image_size)
    held_out = round(dataset.validation * len(arrays.y_train))
    if len(arrays.y_train) - held_out < 2 or (dataset.validation and not held_out):
        raise UserError(
            f"dataset.validation={dataset.validation}: leaves {len(arrays.y_train) - held_out} training and "
            f"{held_out} validation images; must leave at least two training images, and a validation image unless 0"
        )
    return arrays
