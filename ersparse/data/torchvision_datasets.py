"""Data sets of torchvision that yield labelled images, read once and cached. Imports torch only when they are read."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ersparse.config.from_data import described_by
from ersparse.data.image_cache import DecodedImages, ImageCache, check_memory
from ersparse.data.image_files import PixelFormat, fit
from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.config.schema import DatasetSettings
    from ersparse.data.arrays import Arrays

GRAY = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "EMNIST", "USPS")
SPLITS = {"trainval": ("trainval", "test")}  # of classes with this default of `split`
SPLITS_OF = {"Imagenette": ("train", "val")}
KNOWN = (
    "MNIST, FashionMNIST, KMNIST, QMNIST, USPS, SVHN, STL10, GTSRB, DTD, Flowers102, Food101, FGVCAircraft, "
    "OxfordIIITPet, PCAM, Country211 or Imagenette"
)
CHUNK = 64  # images per task of a thread


def describe(dataset: DatasetSettings, unknown: Collection[str]) -> dict[str, Any]:
    """Read settings of the data set from its images.

    Images are read, and cached, only if something else than the number of channels is asked for.

    Args:
        dataset: settings, in which the values of unknown keys are placeholders.
        unknown: keys that are asked for.

    Raises:
        UserError: the data set is missing and cannot be downloaded, or there is none of this name.
    """
    args = _checked_args(dataset.own_keys().get("args"))
    channels = dataset.channels if "channels" not in unknown else 1 if args["name"] in GRAY else 3
    found: dict[str, Any] = {"channels": channels, "digest": None}
    if set(unknown) - set(found):
        cache = _cache(Path(dataset.root), dataset.download, args, PixelFormat(dataset.size, channels, dataset.resize))
        found |= cache.statistics()._asdict()
    return {key: found[key] for key in unknown}


@described_by(describe)
def load(root: Path, download: bool, *, form: PixelFormat, args: Mapping[str, Any]) -> Arrays:
    """Load a data set of torchvision, resized to cover `dataset.image_size`, and cropped to the centre.

    Args:
        root: folder of the data set, as torchvision lays it out.
        download: have torchvision download it if it is missing.
        form: of the images.
        args: `name` of torchvision's class, and further arguments of it.

    Raises:
        UserError: the data set is missing and cannot be downloaded, or there is none of this name.
    """
    from ersparse.data.npz_cache import read_npz

    return read_npz(_cache(root, download, _checked_args(args), form).path)


def _checked_args(args: Any) -> dict[str, Any]:
    if not isinstance(args, Mapping) or not isinstance(args.get("name"), str):
        raise UserError(f"dataset.args={args}: must have a name, such as {KNOWN}")
    return dict(args)


def _cache(root: Path, download: bool, args: dict[str, Any], form: PixelFormat) -> ImageCache:
    digest = hashlib.sha256(json.dumps(args, sort_keys=True, default=str).encode()).hexdigest()[:8]
    reader = TorchvisionReader(root, download, args)
    return ImageCache(root, f"{args['name']}-{digest}-{form.key}", lambda: reader.read(form))


class TorchvisionReader:
    """Reads both splits of a data set of torchvision.

    Args:
        root: folder of the data set.
        download: have torchvision download it if it is missing.
        args: `name` of torchvision's class, and further arguments of it.
    """

    def __init__(self, root: Path, download: bool, args: dict[str, Any]) -> None:
        self.root, self.download, self.name = root, download, args["name"]
        self.args = {key: value for key, value in args.items() if key != "name"}

    def read(self, form: PixelFormat) -> DecodedImages:
        """Return the images of both splits, resized and cropped.

        Raises:
            UserError: they are missing and cannot be downloaded, or are not images with the number of a class.
        """
        make, splits = self._constructor()
        train, test = (self._open(make, split) for split in splits)
        check_memory(len(train) + len(test), form)
        return DecodedImages(*self._images(train, form), *self._images(test, form))

    def _constructor(self) -> tuple[Callable[..., Any], list[dict[str, Any]]]:
        """Return torchvision's class, and the arguments that choose the training and the test images."""
        from torchvision import datasets

        where = f"dataset.args.name={self.name}"
        dataset = getattr(datasets, self.name, None) if self.name in datasets.__all__ else None
        takes = inspect.signature(dataset).parameters if inspect.isclass(dataset) else {}
        missing = [
            key
            for key, parameter in takes.items()
            if parameter.default is parameter.empty
            and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            and key not in ("root", *self.args)
        ]
        if dataset is None or not {"train", "split"} & set(takes):
            raise UserError(f"{where}: must be a data set of torchvision with training and test images: {KNOWN}")
        if missing:
            raise UserError(f"{where}: needs dataset.args.{missing[0]}, in an option of your own")
        if "train" in takes or "split" in self.args:
            return dataset, [{"train": True}, {"train": False}]
        splits = SPLITS_OF.get(self.name) or SPLITS.get(takes["split"].default, ("train", "test"))
        return dataset, [{"split": split} for split in splits]

    def _open(self, make: Callable[..., Any], split: dict[str, Any]) -> Any:
        """Return one split, downloaded if it is missing."""
        takes = inspect.signature(make).parameters
        can_download = "download" in takes or any(value.kind is value.VAR_KEYWORD for value in takes.values())
        failed = ""
        for download in (False, True) if can_download and self.download else (False,):
            try:
                return make(str(self.root), **split, **self.args, **({"download": True} if download else {}))
            except (OSError, RuntimeError, HTTPException, ImportError, TypeError, ValueError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                failed = f", and no download ({reason})" if download else f" ({reason})"
        raise UserError(
            f"dataset.root={self.root}: torchvision's {self.name} is not there{failed}; put it there (or set "
            "ERSPARSE_DATA to where it is), or run once with a network and dataset.download=true"
        )

    def _images(self, dataset: Any, form: PixelFormat) -> tuple[np.ndarray, np.ndarray]:
        """Return images uint8 [N, height, width, C] and labels int64 [N], read by threads."""
        images = np.empty((len(dataset), *form.shape), np.uint8)
        labels = np.empty(len(dataset), np.int64)

        def read(start: int) -> None:
            for number in range(start, min(start + CHUNK, len(dataset))):
                image, label = dataset[number]
                labels[number] = label
                images[number] = fit(image, form)

        try:
            with ThreadPoolExecutor(os.cpu_count()) as threads:
                list(threads.map(read, range(0, len(dataset), CHUNK)))
        except (AttributeError, OSError, RuntimeError, SyntaxError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"dataset.args.name={self.name}: cannot be read as images with the number of a class ({reason})"
            ) from None
        return images, labels
