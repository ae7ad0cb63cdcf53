"""Tiny ImageNet: 64x64 images in 200 classes, decoded once from the official zip file or its folder."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from rich.console import Console
from rich.progress import track

from ersparse.data.arrays import Arrays
from ersparse.data.jpeg import CHUNK, decode_all
from ersparse.data.npz_cache import make_once, read_npz, read_source
from ersparse.errors import UserError

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
SIDE = 64
LabelledFiles = list[tuple[str, int]]  # name of an image file, and its label


@dataclass(frozen=True)
class Archive:
    """The files of the zip file or of the folder, by their names below tiny-imagenet-200.

    Attributes:
        path: of the zip file or folder.
        names: of all files.
        read: returns the content of a file.
    """

    path: Path
    names: Sequence[str]
    read: Callable[[str], bytes]

    def read_text(self, name: str) -> str:
        """Return the content of a text file.

        Raises:
            UserError: the file is missing, so this is not Tiny ImageNet.
        """
        if name not in self.names:
            raise UserError(f"{self.path}: is not Tiny ImageNet, has no {FOLDER}/{name}; the official one is {URL}")
        return self.read(name).decode(errors="replace")


def load(root: Path, download: bool) -> Arrays:
    """Load Tiny ImageNet from <root>/tiny_imagenet.npz, which is created from the first of these that exists.

    1. <root>/tiny-imagenet-200.zip
    2. the folder <root>/tiny-imagenet-200
    3. another zip file in <root> whose name begins with tiny-imagenet, unless the npz file exists

    The npz file is created again if the zip file has changed its size since; a folder is read once. The official
    validation images are the test images, as the official test images have no labels. Labels number the classes of
    wnids.txt in alphabetical order.

    Args:
        root: folder of the data set.
        download: unused; the zip file is not downloaded.

    Raises:
        UserError: none of the files exists, or the data set is damaged, incomplete, or not Tiny ImageNet.
    """
    path = root / "tiny_imagenet.npz"
    original = _find_original(root, path)
    if original is None:
        if path.exists():
            return read_npz(path)
        raise UserError(
            f"dataset.root={root}: no {FOLDER}.zip, {FOLDER}/ or tiny_imagenet.npz in {root.absolute()}; put {URL} "
            "there, or set ERSPARSE_DATA to where it is; method=draw needs no images"
        )
    source = f"{original.name} {original.stat().st_size if original.is_file() else ''}".strip()
    if not path.exists() or read_source(path) not in (source, None):
        try:
            make_once(path, lambda: _decode(original) | {"source": np.array(source)})
        except OSError as error:
            raise UserError(
                f"dataset.root={root}: {path.absolute()} cannot be written ({error.strerror}); "
                f"a folder with a link to {original.name} can be the root"
            ) from None
    return read_npz(path)


def _find_original(root: Path, path: Path) -> Path | None:
    found = [original for original in (root / f"{FOLDER}.zip", root / FOLDER) if original.exists()]
    others = [] if path.exists() else sorted(root.glob("tiny-imagenet*.zip"))
    return next(iter(found + others), None)


def _decode(original: Path) -> dict[str, np.ndarray]:
    with _open_archive(original) as archive:
        classes = {wnid: label for label, wnid in enumerate(sorted(archive.read_text("wnids.txt").split()))}
        x_train, y_train = _decode_images(archive, _training_files(archive, classes), "training")
        x_test, y_test = _decode_images(archive, _validation_files(archive, classes), "validation")
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


@contextmanager
def _open_archive(original: Path) -> Iterator[Archive]:
    if original.is_dir():
        names = [path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file()]
        yield Archive(original, names, lambda name: (original / name).read_bytes())
        return
    try:
        with zipfile.ZipFile(original) as file:
            prefix = f"{FOLDER}/"
            names = [name.removeprefix(prefix) for name in file.namelist() if name.startswith(prefix)]
            yield Archive(original, names, lambda name: file.read(prefix + name))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{original}: damaged or truncated ({error}); the official one is {URL}") from None


def _training_files(archive: Archive, classes: dict[str, int]) -> LabelledFiles:
    """Return train/<wnid>/images/*.JPEG; each class must have some."""
    images = [(name, PurePosixPath(name).parts) for name in sorted(archive.names) if name.endswith(".JPEG")]
    found = [(name, parts[1]) for name, parts in images if parts[0] == "train" and parts[1] in classes]
    if missing := sorted(set(classes) - {wnid for _, wnid in found}):
        raise UserError(f"{archive.path}: is incomplete, has no training images of class {missing[0]}")
    return [(name, classes[wnid]) for name, wnid in found]


def _validation_files(archive: Archive, classes: dict[str, int]) -> LabelledFiles:
    """Return val/images/*.JPEG with the classes in val/val_annotations.txt; all files listed there must exist."""
    names = set(archive.names)
    rows = [line.split("\t") for line in archive.read_text("val/val_annotations.txt").splitlines()]
    annotations = [(f"val/images/{row[0]}", row[1]) for row in rows if len(row) > 1]
    for name, wnid in annotations:
        if name not in names or wnid not in classes:
            missing = name if name not in names else f"class {wnid}"
            raise UserError(f"{archive.path}: is incomplete, has no {missing}")
    return [(name, classes[wnid]) for name, wnid in annotations]


def _decode_images(archive: Archive, files: LabelledFiles, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, 64, 64, 3] and labels int64 [N], and show a progress bar in a terminal."""
    if not files:
        raise UserError(f"{archive.path}: is not Tiny ImageNet, has no {part} images; the official one is {URL}")
    images = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    starts = range(0, len(files), CHUNK)
    chunks = ([(name, archive.read(name)) for name, _ in files[start : start + CHUNK]] for start in starts)
    decoded, console = decode_all(chunks, len(files), SIDE), Console(stderr=True)
    progress = track(decoded, f"decoding {part} images", len(starts), console=console, disable=not console.is_terminal)
    try:
        for start, chunk in zip(starts, progress, strict=True):
            images[start : start + CHUNK] = chunk
    except ValueError as error:
        raise UserError(f"{archive.path}: {error}") from None
    return images, np.array([label for _, label in files], np.int64)
