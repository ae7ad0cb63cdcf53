"""ImageNet from the folders in which it lies on disks. Imports torch only when images are loaded.

The training images are in train/<wnid>/. The validation images, which are the test images, are in val/<wnid>/, or in
val/ itself, with their classes in the development kit or in Kaggle's LOC_val_solution.csv.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ersparse.config.groups import SettingsGroup, build
from ersparse.data.file_table import FileTable, ImageFile
from ersparse.data.folder_listing import Classes, FolderListing, images_below, images_by_class, labelled
from ersparse.data.image_files import PixelFormat
from ersparse.data.image_folder import load_listing, stream_listing
from ersparse.data.placement import streamed_by
from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.data.arrays import Arrays
    from ersparse.data.streamed import StreamedImages

PLACES = ("", "ILSVRC/Data/CLS-LOC", "ILSVRC2012", "imagenet")  # of train/ and val/ below the root
KIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "data/meta.mat"
KAGGLE = "LOC_val_solution.csv"
ARCHIVE = "ILSVRC2012_img_train.tar"


class ImagenetSettings(SettingsGroup):
    """The keys of this data set's own.

    Attributes:
        damaged: what happens to images that cannot be decoded; "skip" leaves them out.
    """

    damaged: Literal["error", "skip"] = "error"


def stream(root: Path, download: bool, *, form: PixelFormat, num_classes: int, **own: Any) -> StreamedImages:
    """Return the images, which are decoded whenever they are read.

    Args:
        root: folder of the data set.
        download: unused; ImageNet cannot be downloaded without an account.
        form: of the images.
        num_classes: number of classes.
        **own: `damaged`.

    Raises:
        UserError: the folder is not ImageNet, is incomplete, or has another number of classes.
    """
    return stream_listing(list_imagenet(root, num_classes), form, build(ImagenetSettings, own, "dataset.").damaged)


@streamed_by(stream)
def load(root: Path, download: bool, *, form: PixelFormat, num_classes: int, **own: Any) -> Arrays:
    """Load a small part of ImageNet into memory, decoded once and cached; the arguments are those of `stream`.

    Raises:
        UserError: as `stream`, or the images do not fit into memory.
    """
    return load_listing(list_imagenet(root, num_classes), form, build(ImagenetSettings, own, "dataset.").damaged)


def list_imagenet(root: Path, num_classes: int) -> FolderListing:
    """List the images below a folder.

    Args:
        root: folder of the data set.
        num_classes: number of classes that it must have.

    Raises:
        UserError: the folder is not ImageNet, is incomplete, or has another number of classes.
    """
    where = f"dataset.root={root}"
    base = next((root / place for place in PLACES if (root / place / "train").is_dir()), None)
    if base is None:
        packed = f"; {ARCHIVE} has to be unpacked, as torchvision.datasets.ImageNet does"
        hint = packed if (root / ARCHIVE).exists() else ""
        raise UserError(f"{where}: is not ImageNet, has no train/ with a folder per class{hint}")
    train = images_by_class(root, base / "train")
    if len(train) != num_classes:
        raise UserError(
            f"dataset.num_classes={num_classes}: {where} has training images of {len(train)} classes; must be as many"
        )
    if not (base / "val").is_dir():
        raise UserError(f"{where}: is incomplete, has no val/")
    test = images_by_class(root, base / "val") or _flat_validation(root, base / "val", train)
    for one, other, part in ((train, test, "validation"), (test, train, "training")):
        if missing := sorted(set(one) - set(other)):
            raise UserError(f"{where}: is incomplete, has no {part} images of class {missing[0]}")
    return FolderListing(root, tuple(sorted(train)), labelled(train), labelled(test))


def _flat_validation(root: Path, folder: Path, train: Classes) -> dict[str, FileTable]:
    """Return the validation images by class, where they are not in a folder per class."""
    class_of = _validation_classes(root)
    found: dict[str, list[ImageFile]] = {}
    for file in images_below(f"{root}/", str(folder), frozenset()):
        wnid = class_of(Path(file.name).stem)
        if wnid is None or wnid not in train:
            raise UserError(f"dataset.root={root}: {file.name} is of class {wnid}, which has no training images")
        found.setdefault(wnid, []).append(file)
    return {wnid: FileTable.of(files) for wnid, files in found.items()}


def _validation_classes(root: Path) -> Callable[[str], str | None]:
    """Return a function from the name of a validation image, without its suffix, to its class, None if unknown.

    Raises:
        UserError: there are no files that say so.
    """
    if table := next((path for path in (root / KAGGLE, root / "ILSVRC" / KAGGLE) if path.exists()), None):
        rows = (line.partition(",") for line in table.read_text("utf-8", errors="replace").splitlines()[1:])
        by_name = {name: words.split()[0] for name, _, words in rows if words.split()}
        return by_name.get
    by_number = dict(enumerate(_kit_classes(root), 1))

    def class_of(name: str) -> str | None:
        number = re.search(r"(\d+)$", name)
        return by_number.get(int(number[1])) if number else None

    return class_of


def _kit_classes(root: Path) -> Iterator[str]:
    """Yield the class of each validation image in the order of their numbers, from the development kit."""
    kit = _kit_files(root)
    try:
        from scipy.io import loadmat

        synsets = loadmat(io.BytesIO(kit[SYNSETS]), squeeze_me=True, struct_as_record=False)["synsets"]
        wnids = {int(row.ILSVRC2012_ID): str(row.WNID) for row in synsets}
        yield from (wnids[int(line)] for line in kit[GROUND_TRUTH].decode().split())
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"dataset.root={root}: {KIT} is damaged ({type(error).__name__}: {error})") from None


def _kit_files(root: Path) -> Mapping[str, bytes]:
    """Return the files of the development kit by name, from its folder or its archive."""
    folder, archive = root / KIT, root / f"{KIT}.tar.gz"
    try:
        if folder.is_dir():
            return {name: (folder / name).read_bytes() for name in (GROUND_TRUTH, SYNSETS)}
        if archive.exists():
            with tarfile.open(archive) as file:
                members = {name: file.extractfile(f"{KIT}/{name}") for name in (GROUND_TRUTH, SYNSETS)}
                return {name: member.read() for name, member in members.items() if member}
    except (OSError, KeyError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"dataset.root={root}: {KIT} cannot be read ({error})") from None
    raise UserError(
        f"dataset.root={root}: val/ has no folder per class; {KIT}, its tar.gz or {KAGGLE} must be there to name them"
    )
