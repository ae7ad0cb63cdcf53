"""The images of a folder by class and split, with a digest of their names and sizes. Imports no torch.

Links are followed. Hidden files, those that operating systems add, other files than images, and folders without images
do not count. The images of a class may lie in folders below that of the class.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ersparse.data.file_table import FileTable, ImageFile, by_name
from ersparse.data.folder_hints import UNREAD, hint
from ersparse.data.image_files import SUFFIXES
from ersparse.errors import UserError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first that has images by class is taken
SYSTEM_NAMES = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
FORMS = f"each in a folder of its own with {', '.join(SUFFIXES)} files"
DIGEST_LENGTH = 16  # hexadecimal digits


@dataclass(frozen=True)
class FolderListing:
    """The images of a folder, sorted by name in each split.

    Attributes:
        root: the folder.
        classes: names of the classes, sorted; labels number them.
        train: training images.
        test: test images.
        skipped: numbers of files with images that are not read, by suffix.
    """

    root: Path
    classes: tuple[str, ...]
    train: FileTable
    test: FileTable
    skipped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.train) + len(self.test)

    @property
    def files(self) -> Iterator[ImageFile]:
        """Training and test images."""
        return itertools.chain(self.train, self.test)

    @cached_property
    def digest(self) -> str:
        """A digest of names and sizes; a copy of the folder has the same."""
        return _digest((file.name, file.size) for file in by_name((self.train, self.test)))

    @cached_property
    def version(self) -> str:
        """A digest of the split, and of names, sizes and times of modification."""
        parts = (("train", self.train), ("test", self.test))
        return _digest((part, *row) for part, files in parts for row in files)


Classes = Mapping[str, FileTable]  # the images of each class by its name; the labels are not set


def list_folder(root: Path, test: float | None, split_seed: int) -> FolderListing:
    """List the images of a folder that has one of these forms.

    - train/<class>/**/<image> and test/<class>/**/<image>, or val/ in place of test/
    - train/<class>/**/<image>, of which the fraction `test` is held out for testing
    - <class>/**/<image>, of which the fraction `test` is held out for testing

    Args:
        root: the folder.
        test: fraction of each class, in (0, 1); None where there is a folder with test images.
        split_seed: of the choice of test images.

    Raises:
        UserError: the folder does not have one of these forms, or too few images or classes.
    """
    where = f"dataset.root={root}"
    if not root.is_dir():
        usual = "must hold train/ and test/ or val/, or a folder per class"
        raise UserError(f"{where}: is not a folder; {hint(root) or usual}")
    skipped: Counter[str] = Counter()
    train_name, train = _find(root, TRAIN_NAMES, skipped)
    test_name, held_out = _find(root, TEST_NAMES, skipped) if train_name else (None, {})
    if train_name is None:
        train = images_by_class(root, root, skipped)
        _check_tree(where, train)
        if len(train) < 2 and (found := hint(root)):
            raise UserError(f"{where}: has neither train/ nor images in a folder per class; {found}")
    _check_fraction(where, test, train_name, test_name)
    if len(train) < 2:
        raise UserError(f"{where}: has images of {len(train)} classes{_named(train)}; must have at least two, {FORMS}")
    if test_name and train_name:
        _check_same_classes(where, train_name, train, test_name, held_out)
    if test is not None:
        train, held_out = _split(where, train, test, split_seed)
    return FolderListing(root, tuple(sorted(train)), labelled(train), labelled(held_out), skipped)


def _find(root: Path, names: Iterable[str], skipped: Counter[str]) -> tuple[str | None, Classes]:
    """Return the first folder in `root` with one of these names, in any case, that has folders with images."""
    folders = [entry.name for entry in _entries(root) if is_folder(entry)]
    present = {name.lower(): name for name in folders}
    for name in names:
        if len(several := [folder for folder in folders if folder.lower() == name]) > 1:
            raise UserError(f"dataset.root={root}: has folders {' and '.join(several)}; must have one of them")
        if name in present and (found := images_by_class(root, root / present[name], skipped)):
            return present[name], found
    return None, {}


def _check_tree(where: str, classes: Classes) -> None:
    if classes and {name.lower() for name in classes} <= {*TRAIN_NAMES, *TEST_NAMES}:
        raise UserError(f"{where}: {min(classes)}/ has images but no folders; must have a folder per class")


def _check_fraction(where: str, test: float | None, train_name: str | None, test_name: str | None) -> None:
    if test is None and test_name is None:
        missing = "no train/ with a folder per class" if train_name is None else "no test/ or val/ with such folders"
        raise UserError(f"{where}: has {missing}; dataset.test must then lie in (0, 1), the fraction for testing")
    if test is not None and test_name is not None:
        raise UserError(f"dataset.test={test}: must be null where {where} has test images, in {test_name}/")


def _check_same_classes(where: str, train_name: str, train: Classes, test_name: str, test: Classes) -> None:
    for one, first, other, second in ((train_name, train, test_name, test), (test_name, test, train_name, train)):
        if more := sorted(set(first) - set(second)):
            raise UserError(
                f"{where}: {other}/ has no images of class {shown(more[0])}, which {one}/ has ({len(more)} such "
                "classes); must have the same classes"
            )


def _named(classes: Classes) -> str:
    return "".join(f" ({shown(name)})" for name in classes)


def _split(where: str, classes: Classes, fraction: float, seed: int) -> tuple[Classes, Classes]:
    """Hold out a fraction of each class, at least one image: those with the smallest hash of seed and name."""
    train, test = {}, {}
    for name, files in classes.items():
        count = max(1, round(fraction * len(files)))
        if count >= len(files):
            raise UserError(
                f"dataset.test={fraction}: leaves no training image of class {shown(name)}, which has {len(files)} "
                f"images in {where}; must leave at least one"
            )
        chosen = set(sorted((file.name for file in files), key=lambda name: _digest([(seed, name)]))[:count])
        train[name] = FileTable.of(file for file in files if file.name not in chosen)
        test[name] = FileTable.of(file for file in files if file.name in chosen)
    return train, test


def labelled(classes: Classes) -> FileTable:
    """Return the images sorted by class and name, with their labels."""
    return FileTable.of(
        file._replace(label=label)
        for label, name in enumerate(sorted(classes))
        for file in sorted(classes[name], key=lambda file: file.name)
    )


def images_by_class(root: Path, folder: Path, skipped: Counter[str] | None = None) -> dict[str, FileTable]:
    """Return the images in each folder of `folder` that has some; `skipped` counts those of unread formats."""
    folders = (entry for entry in _entries(folder) if is_folder(entry))
    found = {entry.name: FileTable.of(images_below(f"{root}/", entry.path, frozenset(), skipped)) for entry in folders}
    return {name: files for name, files in found.items() if len(files)}


def images_below(
    root: str, folder: str, above: frozenset[str], skipped: Counter[str] | None = None
) -> Iterator[ImageFile]:
    """Yield the images below a folder; a link to a folder that it lies in is left out."""
    here = os.path.realpath(folder)
    if here in above:
        return
    above = above.union([here], map(str, Path(here).parents))
    for entry in _entries(folder):
        suffix = os.path.splitext(entry.name)[1].lower()
        if is_folder(entry):
            yield from images_below(root, entry.path, above, skipped)
        elif suffix in SUFFIXES and (file := _image_file(root, entry)):
            yield file
        elif skipped is not None and suffix in UNREAD:
            skipped[suffix] += 1


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one; links in a circle are not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def shown(name: str) -> str:
    """Return a file name as one line that can be printed, whatever its bytes."""
    text = os.fsencode(name).decode(errors="replace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _image_file(root: str, entry: os.DirEntry[str]) -> ImageFile | None:
    """Return a regular file, or a broken link, which is reported as damaged when it is decoded."""
    name = entry.path.removeprefix(root)
    try:
        status = entry.stat()
    except OSError:
        return ImageFile(name, -1, 0, 0)
    return ImageFile(name, -1, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted by name, without hidden files and those that operating systems add.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in SYSTEM_NAMES]
    except OSError as error:
        raise UserError(f"dataset.root: {folder} cannot be read ({error.strerror})") from None
    return sorted(found, key=lambda entry: entry.name)


def _digest(rows: Iterable[tuple[object, ...]]) -> str:
    """Return a SHA-256 of rows of values, shortened."""
    found = hashlib.sha256()
    for row in rows:
        found.update(b"\0".join(os.fsencode(str(value)) for value in row) + b"\n")
    return found.hexdigest()[:DIGEST_LENGTH]
