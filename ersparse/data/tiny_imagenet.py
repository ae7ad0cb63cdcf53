"""Tiny ImageNet: 64x64 images of 200 classes, from the official zip or its folder, decoded once."""

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
from ersparse.data.npz_cache import make_once, read_npz, source_of
from ersparse.errors import UserError

FOLDER = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
SIDE = 64
Labelled = list[tuple[str, int]]  # names of image files, with their labels


@dataclass(frozen=True)
class Files:
    """The files of the zip or the folder, by their names below tiny-imagenet-200."""

    where: Path
    names: Sequence[str]
    read: Callable[[str], bytes]

    def text(self, name: str) -> str:
        """
        Raises:
            UserError: it is not there, so this is not Tiny ImageNet.
        """
        if name not in self.names:
            raise UserError(f"{self.where}: is not Tiny ImageNet, has no {FOLDER}/{name}; the official one is {URL}")
        return self.read(name).decode(errors="replace")


def load(root: Path, download: bool) -> Arrays:
    """<root>/tiny_imagenet.npz; it is made from <root>/tiny-imagenet-200.zip, or the folder of that name.

    It is made anew for a zip of another size than that which it was made from; a folder is read once. Where there is
    none of the three, a zip with another name will do, as long as it begins with tiny-imagenet.

    The official validation images are the test images; the official test images have no labels. Labels count the
    classes of wnids.txt in alphabetical order.

    Raises:
        UserError: there is none of them, or what is there is damaged or not Tiny ImageNet.
    """
    path = root / "tiny_imagenet.npz"
    original = _original(root, path)
    if original is None:
        if path.exists():
            return read_npz(path)
        raise UserError(
            f"dataset.root={root}: no {FOLDER}.zip, {FOLDER}/ or tiny_imagenet.npz in {root.absolute()}; put {URL} "
            "there, or set ERSPARSE_DATA to where it is; method=draw needs no images"
        )
    source = f"{original.name} {original.stat().st_size if original.is_file() else ''}".strip()
    if not path.exists() or source_of(path) not in (source, None):
        try:
            make_once(path, lambda: _decoded(original) | {"source": np.array(source)})
        except OSError as error:
            raise UserError(
                f"dataset.root={root}: {path.absolute()} cannot be written ({error.strerror}); "
                f"a folder with a link to {original.name} can be the root"
            ) from None
    return read_npz(path)


def _original(root: Path, path: Path) -> Path | None:
    found = [original for original in (root / f"{FOLDER}.zip", root / FOLDER) if original.exists()]
    others = [] if path.exists() else sorted(root.glob("tiny-imagenet*.zip"))
    return next(iter(found + others), None)


def _decoded(original: Path) -> dict[str, np.ndarray]:
    with _opened(original) as files:
        classes = {wnid: label for label, wnid in enumerate(sorted(files.text("wnids.txt").split()))}
        x_train, y_train = _images(files, _train(files, classes), "training")
        x_test, y_test = _images(files, _validation(files, classes), "validation")
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


@contextmanager
def _opened(original: Path) -> Iterator[Files]:
    if original.is_dir():
        names = [path.relative_to(original).as_posix() for path in original.rglob("*") if path.is_file()]
        yield Files(original, names, lambda name: (original / name).read_bytes())
        return
    try:
        with zipfile.ZipFile(original) as archive:
            top = f"{FOLDER}/"
            names = [name.removeprefix(top) for name in archive.namelist() if name.startswith(top)]
            yield Files(original, names, lambda name: archive.read(top + name))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{original}: damaged or truncated ({error}); the official one is {URL}") from None


def _train(files: Files, classes: dict[str, int]) -> Labelled:
    """train/<wnid>/images/*.JPEG, some of each class."""
    images = [(name, PurePosixPath(name).parts) for name in sorted(files.names) if name.endswith(".JPEG")]
    found = [(name, parts[1]) for name, parts in images if parts[0] == "train" and parts[1] in classes]
    if lacking := sorted(set(classes) - {wnid for _, wnid in found}):
        raise UserError(f"{files.where}: is not whole, has no training images of class {lacking[0]}")
    return [(name, classes[wnid]) for name, wnid in found]


def _validation(files: Files, classes: dict[str, int]) -> Labelled:
    """val/images/*.JPEG, all those of val/val_annotations.txt, which has their classes."""
    there = set(files.names)
    rows = [line.split("\t") for line in files.text("val/val_annotations.txt").splitlines()]
    named = [(f"val/images/{row[0]}", row[1]) for row in rows if len(row) > 1]
    for name, wnid in named:
        if name not in there or wnid not in classes:
            raise UserError(f"{files.where}: is not whole, has no {name if name not in there else f'class {wnid}'}")
    return [(name, classes[wnid]) for name, wnid in named]


def _images(files: Files, labelled: Labelled, what: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 64, 64, 3] and int64 [N]; a bar shows how far it is."""
    if not labelled:
        raise UserError(f"{files.where}: is not Tiny ImageNet, has no {what} images; the official one is {URL}")
    images = np.empty((len(labelled), SIDE, SIDE, 3), np.uint8)
    starts = range(0, len(labelled), CHUNK)
    chunks = ([(name, files.read(name)) for name, _ in labelled[start : start + CHUNK]] for start in starts)
    decoded, console = decode_all(chunks, len(labelled), SIDE), Console(stderr=True)
    bar = track(decoded, f"decoding {what} images", len(starts), console=console, disable=not console.is_terminal)
    try:
        for start, chunk in zip(starts, bar, strict=True):
            images[start : start + CHUNK] = chunk
    except ValueError as error:
        raise UserError(f"{files.where}: {error}") from None
    return images, np.array([label for _, label in labelled], np.int64)
