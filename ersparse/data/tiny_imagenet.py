"""Tiny ImageNet: 64x64 images in 200 classes, decoded once from a zip file or a folder.

Beside the official layout, those that preparation scripts and repackaged archives leave are read: symbolic links,
validation images sorted into class folders, a folder within the folder, and files that macOS adds.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
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
CLASSES = "wnids.txt"  # the folder that holds it is the top of the data set
ANNOTATIONS = "val/val_annotations.txt"
SUFFIXES = (".jpeg", ".jpg")
LabelledFiles = list[tuple[str, int]]  # name of an image file, and its label


@dataclass(frozen=True)
class Archive:
    """The files of the zip file or of the folder, by their names below the folder that holds wnids.txt.

    Attributes:
        path: of the zip file or folder.
        names: of all files, without hidden files and those that macOS adds.
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
    3. <root> itself, if it holds wnids.txt
    4. another zip file in <root> whose name begins with tiny-imagenet, unless the npz file exists

    The npz file is created again if the zip file has changed its size since; a folder is read once. The official
    validation images are the test images, as the official test images have no labels. Labels number the classes of
    wnids.txt in alphabetical order. All layouts give the same arrays.

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
    source = f"{original.name} {original.stat().st_size}" if original.is_file() else FOLDER
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
    found += [root] if (root / CLASSES).exists() else []
    others = [] if path.exists() else sorted(root.glob("tiny-imagenet*.zip"))
    return next(iter(found + others), None)


def _decode(original: Path) -> dict[str, np.ndarray]:
    with _open_archive(original) as archive:
        classes = {wnid: label for label, wnid in enumerate(sorted(archive.read_text(CLASSES).split()))}
        x_train, y_train = _decode_images(archive, _training_files(archive, classes), "training")
        x_test, y_test = _decode_images(archive, _validation_files(archive, classes), "validation")
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


@contextmanager
def _open_archive(original: Path) -> Iterator[Archive]:
    if original.is_dir():
        top, names = _below_top(_files_in(original))
        yield Archive(original, names, lambda name: (original / (top + name)).read_bytes())
        return
    try:
        with zipfile.ZipFile(original) as file:
            top, names = _below_top(file.namelist())
            yield Archive(original, names, lambda name: file.read(top + name))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{original}: damaged or truncated ({error}); the official one is {URL}") from None


def _files_in(folder: Path) -> list[str]:
    """Return the names of all files below a folder, following links; a link to a folder above itself is left out."""
    found = []
    for current, folders, files in os.walk(folder, followlinks=True):
        here = Path(os.path.realpath(current))
        above = {here, *here.parents}
        folders[:] = [name for name in folders if Path(os.path.realpath(os.path.join(current, name))) not in above]
        found += [Path(current, name) for name in files]
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


def _below_top(names: Iterable[str]) -> tuple[str, list[str]]:
    """Return the folder nearest to the root that holds wnids.txt, with a slash, and the names of the files below it."""
    visible = [name for name in names if not any(map(_is_hidden, PurePosixPath(name).parts))]
    tops = [name.removesuffix(CLASSES) for name in visible if PurePosixPath(name).name == CLASSES]
    top = min(tops, key=lambda name: (name.count("/"), name), default="")
    return top, [name.removeprefix(top) for name in visible if name.startswith(top)]


def _is_hidden(part: str) -> bool:
    """Return whether a part of a name is hidden, such as the AppleDouble file `._name`, or the folder `__MACOSX`."""
    return part.startswith(".") or part == "__MACOSX"


def _images_by_class(archive: Archive, part: str, classes: dict[str, int]) -> list[tuple[str, str]]:
    """Return names and classes of <part>/<wnid>/**/*.JPEG."""
    images = [(name, PurePosixPath(name).parts) for name in archive.names if name.lower().endswith(SUFFIXES)]
    return [(name, parts[1]) for name, parts in images if parts[0] == part and parts[1] in classes]


def _check_classes(archive: Archive, found: list[tuple[str, str]], classes: dict[str, int], part: str) -> None:
    if missing := sorted(set(classes) - {wnid for _, wnid in found}):
        raise UserError(f"{archive.path}: is incomplete, has no {part} images of class {missing[0]}")


def _training_files(archive: Archive, classes: dict[str, int]) -> LabelledFiles:
    """Return train/<wnid>/images/*.JPEG; each class must have some."""
    found = _images_by_class(archive, "train", classes)
    _check_classes(archive, found, classes, "training")
    return [(name, classes[wnid]) for name, wnid in sorted(found)]


def _validation_files(archive: Archive, classes: dict[str, int]) -> LabelledFiles:
    """Return the validation images in the order of their numbers, which is that of val/val_annotations.txt.

    The classes are those of val/val_annotations.txt if it exists, else of the folders val/<wnid>.
    """
    by_class = _images_by_class(archive, "val", classes)
    if ANNOTATIONS not in archive.names and by_class:
        _check_classes(archive, by_class, classes, "validation")
        found = sorted(by_class, key=lambda image: (len(PurePosixPath(image[0]).name), PurePosixPath(image[0]).name))
    else:
        found = _annotated_files(archive, classes)
    return [(name, classes[wnid]) for name, wnid in found]


def _annotated_files(archive: Archive, classes: dict[str, int]) -> list[tuple[str, str]]:
    """Return names and classes of the files listed in val/val_annotations.txt; all of them must exist."""
    names = set(archive.names)
    rows = [line.split("\t") for line in archive.read_text(ANNOTATIONS).splitlines()]
    found = []
    for image, wnid in (row[:2] for row in rows if len(row) > 1):
        places = [f"val/{folder}{image}" for folder in ("images/", f"{wnid}/", f"{wnid}/images/", "")]
        name = next((place for place in places if place in names), None)
        if name is None or wnid not in classes:
            raise UserError(f"{archive.path}: is incomplete, has no {places[0] if name is None else f'class {wnid}'}")
        found.append((name, wnid))
    return found


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
