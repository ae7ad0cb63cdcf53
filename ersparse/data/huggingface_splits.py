"""The training and test images of a data set of Hugging Face."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ersparse.data.huggingface_tables import Columns, HuggingfaceArgs, Tables, choose_columns, numbered, open_tables
from ersparse.data.image_files import DAMAGED, is_gray_mode, upright
from ersparse.errors import UserError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "validation", "valid", "val")  # the first whose images have labels is taken
BATCH = 10_000  # rows whose names and sizes are read at a time
DIGEST_LENGTH = 16  # hexadecimal digits


@dataclass(frozen=True)
class HuggingfaceSplit:
    """One split; see `ersparse.data.opened_images.OpenedImages`.

    Attributes:
        where: names the data set, for messages.
        images: a `datasets.Dataset` of one column, images that are not decoded.
        labels: the number of the class of each image, int64 [N].
    """

    where: str
    images: Any
    labels: np.ndarray

    def open(self, image: int) -> Image.Image:
        return upright(Image.open(io.BytesIO(self.content(image))))

    def content(self, image: int) -> bytes:
        (file,) = self.images[image].values()
        stored: bytes | None = file["bytes"]
        return Path(file["path"]).read_bytes() if stored is None else stored

    def rows(self) -> Iterator[tuple[str, int, int]]:
        """Yield file name (empty if unknown), size in bytes and label of each image, without reading the images."""
        from pyarrow import compute

        labels = iter(self.labels.tolist())
        for table in self.images.with_format("arrow").iter(BATCH):
            content = table.column(0).combine_chunks()
            paths = content.field("path").to_pylist()
            sizes = compute.binary_length(content.field("bytes")).to_pylist()
            for path, size in zip(paths, sizes, strict=True):
                yield os.path.basename(path or ""), _file_size(path) if size is None else size, next(labels)


def _file_size(path: str | None) -> int:
    """Return the size of a file; 0 if it is missing, which is reported when it is decoded."""
    try:
        return os.stat(path or "").st_size
    except OSError:
        return 0


@dataclass(frozen=True)
class HuggingfaceSplits:
    """Training and test images of a data set.

    Attributes:
        train, test: the splits.
        num_classes: number of classes.
    """

    train: HuggingfaceSplit
    test: HuggingfaceSplit
    num_classes: int

    @cached_property
    def digest(self) -> str:
        """A digest of file names, sizes and labels, which does not depend on where or in which form they are stored."""
        found = hashlib.sha256()
        for part, split in (("train", self.train), ("test", self.test)):
            for row in split.rows():
                found.update(b"\0".join(os.fsencode(str(value)) for value in (part, *row)) + b"\n")
        return found.hexdigest()[:DIGEST_LENGTH]

    @cached_property
    def channels(self) -> int:
        """1 if all images are grayscale, else 3. Images are opened, but not decoded, until one has colours."""
        return 1 if all(map(_is_gray, (self.train, self.test))) else 3


def _is_gray(split: HuggingfaceSplit) -> bool:
    """Return whether all images of a split are grayscale; a damaged image is taken to be."""
    for image in range(len(split.labels)):
        try:
            if not is_gray_mode(split.open(image).mode):
                return False
        except DAMAGED:
            continue
    return True


def open_splits(root: Path, download: bool, args: HuggingfaceArgs) -> HuggingfaceSplits:
    """Open a data set.

    Args:
        root: folder in which `args.path` is looked for as well.
        download: whether the data set may be downloaded.
        args: which data set.

    Raises:
        UserError: `datasets` is not installed, the data set cannot be opened, or has no labelled images for training
            and testing.
    """
    tables = open_tables(root, download, args)
    train = tables.find(args.train, TRAIN_NAMES)
    if train is None:
        raise UserError(f"{args.where}: has splits {tables.names}; dataset.args.train must name one")
    columns = choose_columns(train, args)
    test = _labelled_test(tables, columns, [args.test] if args.test else TEST_NAMES)
    if test is None:
        raise UserError(
            f"{args.where}: has no test images with labels among splits {tables.names}; dataset.args.test must name "
            "them, such as train[80%:] beside dataset.args.train=train[:80%]"
        )
    parts = [columns.labels(table) for table in (train, test)]
    num_classes, (y_train, y_test) = numbered(parts, columns, args.where)
    return HuggingfaceSplits(
        HuggingfaceSplit(args.where, columns.images(train), y_train),
        HuggingfaceSplit(args.where, columns.images(test), y_test),
        num_classes,
    )


def _labelled_test(tables: Tables, columns: Columns, names: Sequence[str]) -> Any:
    """Return the first of these splits whose images have labels; those of the Hub often hide them as -1."""
    for name in names:
        table = tables.find(name, [])
        if table is not None and columns.are_labelled(table):
            return table
    return None
