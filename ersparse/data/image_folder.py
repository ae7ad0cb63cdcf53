"""Images in a folder per class, decoded once and cached. Imports torch only when images are loaded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ersparse.config.from_data import described_by
from ersparse.config.groups import SettingsGroup, build
from ersparse.config.types import In, Seed
from ersparse.data.file_table import FileTable
from ersparse.data.folder_decoder import FolderDecoder, left_out
from ersparse.data.folder_hints import unread
from ersparse.data.folder_listing import FolderListing, list_folder
from ersparse.data.image_cache import ImageCache, Statistics, kept_statistics
from ersparse.data.image_files import PixelFormat, is_gray
from ersparse.data.placement import is_streamed, streamed_by
from ersparse.data.recent import Recent
from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.config.dataset_settings import DatasetSettings
    from ersparse.data.arrays import Arrays
    from ersparse.data.streamed import StreamedImages

log = logging.getLogger("ersparse")

REUSE_LISTING_FOR = 2.0  # seconds; see `Recent`


class FolderSettings(SettingsGroup):
    """The keys of this data set's own.

    Attributes:
        test: fraction of each class that is held out for testing; None where there is a folder with test images.
        split_seed: of the choice of test images.
        damaged: what happens to images that cannot be decoded; "skip" leaves them out.
        digest: of names and sizes of the files; None accepts any.
    """

    test: Annotated[float, In("(0, 1)")] | None = None
    split_seed: Seed = 0
    damaged: Literal["error", "skip"] = "error"
    digest: str | None = None

    def list(self, root: Path) -> FolderListing:
        """List the images below `root`.

        Raises:
            UserError: there are too few, or they are not those of `digest`.
        """
        listing = list_folder(root, self.test, self.split_seed)
        self.check(listing)
        return listing

    def check(self, listing: FolderListing) -> None:
        """Check that the images are those of `digest`.

        Raises:
            UserError: they are not.
        """
        if self.digest not in (None, listing.digest):
            raise UserError(
                f"dataset.digest={self.digest}: the images in dataset.root={listing.root} are others, of digest "
                f"{listing.digest}; must be unchanged, or dataset.digest null, which starts a new run with them"
            )


def describe(dataset: DatasetSettings, unknown: Collection[str]) -> dict[str, Any]:
    """Read settings of the data set from its images.

    Images are decoded only if their mean or standard deviation is asked for. They are then cached, unless they are
    streamed, in which case only these statistics are.

    Args:
        dataset: settings, in which the values of unknown keys are placeholders.
        unknown: keys that are asked for.

    Raises:
        UserError: there are too few images, or images are damaged.
    """
    own = build(FolderSettings, dataset.own_keys(), "dataset.")
    listing = _recently_listed(Path(dataset.root), own)
    channels = _channels(listing) if "channels" in unknown else dataset.channels
    found: dict[str, Any] = {
        "num_classes": len(listing.classes),
        "images": (len(listing.train), len(listing.test)),
        "channels": channels,
        "digest": listing.digest,
    }
    if {"mean", "std"} & set(unknown):
        form = PixelFormat(dataset.size, channels, dataset.resize)
        if is_streamed(dataset, found["images"]):
            statistics = _scanned(listing, form, own.damaged)
        else:
            statistics = _cache(listing, form, own.damaged).statistics()
        found |= statistics._asdict()
    return {key: found[key] for key in unknown}


def stream(root: Path, download: bool, *, form: PixelFormat, **own: Any) -> StreamedImages:
    """Return images in a folder per class, which are decoded whenever they are read.

    With `damaged="skip"` all are decoded once before, so that those left out are the same in every epoch.

    Args:
        root: folder as `load` takes it.
        download: unused.
        form: of the images.
        **own: `test`, `split_seed`, `damaged` and `digest`, as in `FolderSettings`.

    Raises:
        UserError: as `load`.
    """
    settings = build(FolderSettings, own, "dataset.")
    return stream_listing(_recently_listed(root, settings), form, settings.damaged)


def stream_listing(listing: FolderListing, form: PixelFormat, damaged: str) -> StreamedImages:
    """Return the images of a listing, which are decoded whenever they are read.

    Args:
        listing: of the images.
        form: of the decoded images.
        damaged: "skip" decodes all images once before, and leaves out those that are damaged; "error" does not.
    """
    from ersparse.data.streamed import FileSource, StreamedImages

    names = _scanned(listing, form, damaged).damaged if damaged == "skip" else []
    _warn(listing, names)

    def source(files: FileTable) -> FileSource:
        return FileSource(str(listing.root), files.without(names))

    return StreamedImages.of(source(listing.train), source(listing.test), form, listing.digest, names)


@streamed_by(stream)
@described_by(describe)
def load(root: Path, download: bool, *, form: PixelFormat, **own: Any) -> Arrays:
    """Load images in a folder per class, resized to cover the size asked for, and cropped to the centre.

    They are decoded once, by parallel processes, and cached in <root>/.ersparse, or in ~/.cache/ersparse/images where
    that cannot be written. Files that were added, removed or changed since have them decoded again.

    Args:
        root: folder of train/<class>/ and test/<class>/ or val/<class>/, or of <class>/.
        download: unused.
        form: of the images.
        **own: `test`, `split_seed`, `damaged` and `digest`, as in `FolderSettings`.

    Raises:
        UserError: there are too few images, images are damaged, or they are not those of `digest`.
    """
    settings = build(FolderSettings, own, "dataset.")
    return load_listing(settings.list(root), form, settings.damaged)


def load_listing(listing: FolderListing, form: PixelFormat, damaged: str) -> Arrays:
    """Load the images of a listing from their cache, which is made if it is missing.

    Args:
        listing: of the images.
        form: of the decoded images.
        damaged: what happens to images that cannot be decoded: "error", or "skip", which leaves them out.

    Raises:
        UserError: images are damaged, or the cache cannot be written.
    """
    from ersparse.data.npz_cache import read_npz

    cache = _cache(listing, form, damaged)
    names = cache.statistics().damaged
    _warn(listing, names)
    return dataclasses.replace(read_npz(cache.path), damaged=names)


def _warn(listing: FolderListing, damaged: Sequence[str]) -> None:
    """Say which files are left out."""
    if listing.skipped:
        log.warning(f"dataset.root={listing.root}: images of these formats are not read: {unread(listing.skipped)}")
    if damaged:
        log.warning(f"dataset.damaged=skip: {left_out(damaged, listing)}")


def _cache(listing: FolderListing, form: PixelFormat, damaged: str) -> ImageCache:
    """Return the cache of the images in their present state."""
    decoder = FolderDecoder(listing, form, damaged)
    return ImageCache(listing.root, f"{form.key}-{damaged}-{listing.version}", decoder.decode)


def _scanned(listing: FolderListing, form: PixelFormat, damaged: str) -> Statistics:
    """Return the statistics of images that are streamed; they are decoded if that has not been done yet."""
    decoder = FolderDecoder(listing, form, damaged)
    return kept_statistics(listing.root, f"{form.key}-{damaged}-{listing.version}", decoder.scan)


recent_listing: Recent[FolderListing] = Recent(REUSE_LISTING_FOR)


def _recently_listed(root: Path, own: FolderSettings) -> FolderListing:
    """List the images below `root`, once for all jobs of a sweep, which are planned one after the other."""
    any_digest = own.model_copy(update={"digest": None})
    listing = recent_listing.get((root.absolute(), any_digest), lambda: any_digest.list(root))
    own.check(listing)
    return listing


def _channels(listing: FolderListing) -> int:
    """Return 1 if all images are grayscale, else 3. Images are opened until one has colours."""
    return 1 if all(is_gray(listing.root / file.name) for file in listing.files) else 3
