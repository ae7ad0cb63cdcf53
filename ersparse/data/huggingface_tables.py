"""Data sets of Hugging Face as tables: opened, offline as well, and their columns of images and labels.

The package `datasets` is imported when one is opened.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ersparse.config.groups import SettingsGroup
from ersparse.errors import UserError

LABEL_NAMES = ("label", "labels", "class", "target")  # of columns of numbers or texts, if none is of classes
SAVED = ("dataset_dict.json", "state.json")  # files that `save_to_disk` writes


class HuggingfaceArgs(SettingsGroup):
    """The keys of `dataset.args`.

    Attributes:
        path: a folder, written by `save_to_disk` or of files that `load_dataset` reads; a name of the Hub; or a format,
            such as "imagefolder".
        name: of the data set's configuration; None for its only one.
        data_dir: see `datasets.load_dataset`; None for all files.
        revision: of the data set on the Hub; None for its newest.
        train: training split, such as "train" or "train[:80%]"; None for the split with a usual name.
        test: test split; None for the first with a usual name whose images have labels.
        image: column of the images; None for the only one of images.
        label: column of the labels; None for the only one of classes, or one with a usual name.
    """

    path: str
    name: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    train: str | None = None
    test: str | None = None
    image: str | None = None
    label: str | None = None

    @property
    def where(self) -> str:
        """The key and value that name the data set, for messages."""
        return f"dataset.args.path={self.path}"


@dataclass(frozen=True)
class Tables:
    """The splits of a data set.

    Attributes:
        where: names the data set, for messages.
        by_name: `datasets.Dataset` of each split.
    """

    where: str
    by_name: Mapping[str, Any]

    @property
    def names(self) -> str:
        """The names of the splits, for messages."""
        return ", ".join(self.by_name)

    def find(self, asked: str | None, usual: Sequence[str]) -> Any:
        """Return the split that is asked for, or the first of the usual names; None if there is none.

        Args:
            asked: a name, or a part such as "train[:80%]"; None for one of the usual names.
            usual: names.

        Raises:
            UserError: `asked` is not a part of a split.
        """
        for name in [asked] if asked else usual:
            if name in self.by_name:
                return self.by_name[name]
            if asked and "[" in asked:
                return self._part(asked)
        return None

    def _part(self, asked: str) -> Any:
        from datasets import ReadInstruction, concatenate_datasets

        try:
            lengths = {name: len(table) for name, table in self.by_name.items()}
            parts = ReadInstruction.from_spec(asked).to_absolute(lengths)
            chosen = [self.by_name[part.splitname].select(range(part.from_, part.to)) for part in parts]
            return concatenate_datasets(chosen)
        except (AssertionError, KeyError, ValueError) as error:
            raise UserError(
                f"{self.where}: {asked} is not a part of splits {self.names} ({_first_line(error)}); must be such as "
                "train[:80%]"
            ) from None


@dataclass(frozen=True)
class Columns:
    """The columns of images and labels.

    Attributes:
        image, label: their names.
        classes: names of the classes; None if labels are numbers or texts.
    """

    image: str
    label: str
    classes: Sequence[str] | None

    def images(self, table: Any) -> Any:
        """Return the column of images, which are not decoded when they are read."""
        from datasets import Image

        return table.select_columns([self.image]).cast_column(self.image, Image(decode=False))

    def labels(self, table: Any) -> np.ndarray:
        """Return the labels as they are stored, [N]."""
        return np.asarray(table.with_format("arrow").select_columns([self.label])[:].column(0).to_pylist())

    def are_labelled(self, table: Any) -> bool:
        """Return whether all images have a label, which is not negative if it is a number."""
        found = self.labels(table) if {self.image, self.label} <= set(table.column_names) else np.array([None])
        return len(found) > 0 and found.dtype != object and (found.dtype.kind == "U" or bool((found >= 0).all()))


def open_tables(root: Path, download: bool, args: HuggingfaceArgs) -> Tables:
    """Open a data set.

    Args:
        root: folder in which `args.path` is looked for as well.
        download: whether the data set may be downloaded.
        args: which data set.

    Raises:
        UserError: `datasets` is not installed, or the data set cannot be opened.
    """
    where = args.where
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{where}: the package datasets is not installed; pip install 'ersparse[huggingface]'")
    import datasets

    places = [folder for folder in (Path(args.path).expanduser(), root / args.path) if folder.is_dir()]
    place = str(places[0]) if places else args.path
    try:
        if places and any((places[0] / file).exists() for file in SAVED):
            found = datasets.load_from_disk(place)
        else:
            with _network(download):
                found = datasets.load_dataset(place, args.name, data_dir=args.data_dir, revision=args.revision)
    except Exception as error:  # of dozens of classes, by format and transport
        hint = "" if download else ", and dataset.download=false"
        raise UserError(
            f"{where}: cannot be opened by datasets {datasets.__version__} ({_first_line(error)}){hint}; must be a "
            "folder written by save_to_disk or of files, a name of the Hub, or a format with dataset.args.data_dir"
        ) from None
    return Tables(where, {"train": found} if isinstance(found, datasets.Dataset) else dict(found))


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep `datasets` from asking the Hub, as HF_HUB_OFFLINE does, and from drawing progress bars into a file."""
    import datasets
    import huggingface_hub

    switches: list[Any] = [datasets.config, huggingface_hub.constants]  # the variable is read once only
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    silent = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = switch.HF_HUB_OFFLINE or not allowed
        if silent:
            datasets.disable_progress_bars()
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value
        if silent:
            datasets.enable_progress_bars()


def choose_columns(table: Any, args: HuggingfaceArgs) -> Columns:
    """Return the columns of images and labels of the training split.

    Raises:
        UserError: there is no such column, or several.
    """
    from datasets import ClassLabel, Image

    features = table.features
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    usual = [name for name in LABEL_NAMES if name in features]
    image = _one(args, "image", "images", images, features)
    label = _one(args, "label", "classes", classes or usual[:1], features)
    if image not in images:
        raise UserError(f"dataset.args.image={image}: {args.where} has no images there; must be one of {images}")
    feature = features[label]
    return Columns(image, label, feature.names if isinstance(feature, ClassLabel) else None)


def _one(args: HuggingfaceArgs, key: str, what: str, found: Sequence[str], all_columns: Mapping[str, Any]) -> str:
    """Return the column that is asked for, or the only one that was found."""
    asked: str | None = getattr(args, key)
    columns = ", ".join(all_columns)
    if asked is not None and asked not in all_columns:
        raise UserError(f"dataset.args.{key}={asked}: {args.where} has no such column; must be one of {columns}")
    if asked is None and len(found) != 1:
        several = f"several columns of {what}, {', '.join(found)}" if found else f"no column of {what} among {columns}"
        raise UserError(f"{args.where}: has {several}; dataset.args.{key} must name one")
    return asked or found[0]


def numbered(parts: Sequence[np.ndarray], columns: Columns, where: str) -> tuple[int, list[np.ndarray]]:
    """Return the number of classes, and labels as the numbers of classes, int64 [N].

    Args:
        parts: labels of training and test images, as they are stored.
        columns: of images and labels.
        where: names the data set, for messages.

    Raises:
        UserError: labels are neither whole numbers nor texts, or classes of test images have no training images.
    """
    train, test = parts
    kinds = {labels.dtype.kind for labels in parts}
    if len(kinds) != 1 or not kinds <= set("iuU") or (train.dtype.kind == "i" and train.min() < 0):
        raise UserError(
            f"dataset.args.label={columns.label}: {where} has other labels than numbers of classes; must be whole "
            "numbers from 0 on, or texts"
        )
    if more := sorted(set(test.tolist()) - set(train.tolist())):
        name = columns.classes[more[0]] if columns.classes else more[0]
        raise UserError(f"{where}: has test images of class {name}, but no training images; must have both")
    if train.dtype.kind == "U":
        names = np.unique(train)
        return len(names), [np.searchsorted(names, labels).astype(np.int64) for labels in parts]
    count = len(columns.classes) if columns.classes else int(train.max()) + 1
    return count, [labels.astype(np.int64) for labels in parts]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
