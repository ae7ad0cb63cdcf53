"""Data sets of torchvision that yield labelled images, read once and cached, or streamed.

Imports torch only when they are read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ersparse.config.from_data import described_by
from ersparse.data.image_cache import ImageCache, Statistics, kept_statistics
from ersparse.data.image_files import PixelFormat
from ersparse.data.opened_images import decode_splits, scan_splits, stream_splits
from ersparse.data.placement import is_streamed, streamed_by
from ersparse.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from ersparse.config.dataset_settings import DatasetSettings
    from ersparse.data.arrays import Arrays
    from ersparse.data.streamed import StreamedImages

GRAY = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "EMNIST", "USPS")
SPLITS = {"trainval": ("trainval", "test")}  # of classes with this default of `split`
SPLITS_OF = {"Imagenette": ("train", "val")}
KNOWN = (
    "MNIST, FashionMNIST, KMNIST, QMNIST, USPS, SVHN, STL10, GTSRB, DTD, Flowers102, Food101, FGVCAircraft, "
    "OxfordIIITPet, PCAM, Country211 or Imagenette"
)
LABELS = ("targets", "labels", "_labels")  # attributes of torchvision's classes; others have pairs with a label
PAIRS = ("_samples", "samples")


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
        form = PixelFormat(dataset.size, channels, dataset.resize)
        found |= _statistics(dataset, TorchvisionReader(Path(dataset.root), dataset.download, args), form)._asdict()
    return {key: found[key] for key in unknown}


def stream(root: Path, download: bool, *, form: PixelFormat, args: Mapping[str, Any]) -> StreamedImages:
    """Return the images of a data set of torchvision, which are decoded whenever they are read.

    The arguments and errors are those of `load`.
    """
    reader = TorchvisionReader(root, download, _checked_args(args))
    train, test = reader.splits
    content = hashlib.sha256(json.dumps(reader.key).encode())
    for part in (train, test):
        content.update(part.labels.tobytes())
    return stream_splits(train, test, form, content.hexdigest()[:16])


@streamed_by(stream)
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

    return read_npz(_cache(TorchvisionReader(root, download, _checked_args(args)), form).path)


def _statistics(dataset: DatasetSettings, reader: TorchvisionReader, form: PixelFormat) -> Statistics:
    """Return the statistics of the images, which are decoded if that has not been done yet."""
    cache = _cache(reader, form)
    if dataset.in_memory == "auto" and cache.exists() and not is_streamed(dataset, None):
        return cache.statistics()  # without opening the data set
    if is_streamed(dataset, reader.counts):
        key = f"{reader.key}-{form.key}-streamed"
        return kept_statistics(reader.root, key, lambda: scan_splits(*reader.splits, form))
    return cache.statistics()


def _checked_args(args: Any) -> dict[str, Any]:
    if not isinstance(args, Mapping) or not isinstance(args.get("name"), str):
        raise UserError(f"dataset.args={args}: must have a name, such as {KNOWN}")
    return dict(args)


def _cache(reader: TorchvisionReader, form: PixelFormat) -> ImageCache:
    return ImageCache(reader.root, f"{reader.key}-{form.key}", lambda: decode_splits(*reader.splits, form))


@dataclass(frozen=True)
class TorchvisionSplit:
    """One split, whose images can be opened one by one; see `OpenedImages`.

    Attributes:
        name: of torchvision's class.
        dataset: an object of it.
    """

    name: str
    dataset: Any

    @property
    def where(self) -> str:
        return f"dataset.args.name={self.name}"

    @cached_property
    def labels(self) -> np.ndarray:
        """The number of the class of each image, int64 [N].

        Raises:
            UserError: the data set has other labels.
        """
        try:
            found = np.array(self._labels())
            if found.shape != (len(self.dataset),) or found.dtype.kind not in "iu":
                raise TypeError(f"labels are {found.dtype} of shape {list(found.shape)}")
            return found.astype(np.int64)
        except (AttributeError, OSError, RuntimeError, SyntaxError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.where}: cannot be read as images with the number of a class ({reason})") from None

    def open(self, image: int) -> Image.Image:
        opened: Image.Image = self.dataset[image][0]
        return opened

    def content(self, image: int) -> None:
        return None

    def _labels(self) -> Any:
        """Return the labels that the data set has in an attribute; if it has none, all images are read for them."""
        for key in (*LABELS, *PAIRS):
            labels = getattr(self.dataset, key, None)
            if labels is None:
                continue
            labels = labels.numpy() if hasattr(labels, "numpy") else labels
            found = np.array([label for _, label in labels] if key in PAIRS else labels)
            ends = (0, len(self.dataset) - 1)
            if found.shape == (len(self.dataset),) and all(self.dataset[end][1] == found[end] for end in ends):
                return found
        return [self.dataset[image][1] for image in range(len(self.dataset))]


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

    @property
    def key(self) -> str:
        """Names the data set and its arguments in file names."""
        args = {"name": self.name, **self.args}
        digest = hashlib.sha256(json.dumps(args, sort_keys=True, default=str).encode()).hexdigest()[:8]
        return f"{self.name}-{digest}"

    @cached_property
    def splits(self) -> tuple[TorchvisionSplit, TorchvisionSplit]:
        """Training and test images.

        Raises:
            UserError: they are missing and cannot be downloaded.
        """
        make, splits = self._constructor()
        train, test = (TorchvisionSplit(self.name, self._open(make, split)) for split in splits)
        return train, test

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of training and test images."""
        train, test = (len(split.dataset) for split in self.splits)
        return train, test

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
