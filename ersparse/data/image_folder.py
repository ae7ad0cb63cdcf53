"""Images in a folder per class, decoded once and cached. Imports torch only when images are loaded."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ersparse.config.from_data import described_by
from ersparse.config.groups import SettingsGroup, build
from ersparse.config.types import In, Seed
from ersparse.data.folder_decoder import FolderDecoder, left_out
from ersparse.data.folder_listing import FolderListing, list_folder
from ersparse.data.image_cache import ImageCache
from ersparse.data.image_files import is_gray
from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.config.schema import DatasetSettings
    from ersparse.data.arrays import Arrays

log = logging.getLogger("ersparse")

REUSE_LISTING_FOR = 2.0  # seconds since its last use; a large folder takes as long to list


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
        if self.digest not in (None, listing.digest):
            raise UserError(
                f"dataset.digest={self.digest}: the images in dataset.root={root} are others, of digest "
                f"{listing.digest}; must be unchanged, or dataset.digest null, which starts a new run with them"
            )
        return listing


def describe(dataset: DatasetSettings, unknown: Collection[str]) -> dict[str, Any]:
    """Read settings of the data set from its images.

    Images are decoded, and cached, only if their mean or standard deviation is asked for.

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
        found |= _cache(listing, dataset.image_size, channels, own.damaged).statistics()._asdict()
    return {key: found[key] for key in unknown}


@described_by(describe)
def load(root: Path, download: bool, *, image_size: int, channels: int, **own: Any) -> Arrays:
    """Load images in a folder per class, resized so that their shorter side is `image_size`, and cropped to the centre.

    They are decoded once, by parallel processes, and cached in <root>/.ersparse, or in ~/.cache/ersparse/images where
    that cannot be written. Files that were added, removed or changed since have them decoded again.

    Args:
        root: folder of train/<class>/ and test/<class>/ or val/<class>/, or of <class>/.
        download: unused.
        image_size: height and width of the images in pixels.
        channels: 1 for gray values, 3 for RGB.
        **own: `test`, `split_seed`, `damaged` and `digest`, as in `FolderSettings`.

    Raises:
        UserError: there are too few images, images are damaged, or they are not those of `digest`.
    """
    from ersparse.data.npz_cache import read_npz

    settings = build(FolderSettings, own, "dataset.")
    listing = settings.list(root)
    cache = _cache(listing, image_size, channels, settings.damaged)
    if damaged := cache.statistics().damaged:
        log.warning(f"dataset.damaged=skip: {left_out(damaged, listing)}")
    return read_npz(cache.path)


def _cache(listing: FolderListing, side: int, channels: int, damaged: str) -> ImageCache:
    """Return the cache of the images in their present state."""
    decoder = FolderDecoder(listing, side, channels, damaged)
    return ImageCache(listing.root, f"{side}-{channels}-{damaged}-{listing.version}", decoder.decode)


_recent: dict[tuple[Path, FolderSettings], tuple[float, FolderListing]] = {}


def _recently_listed(root: Path, own: FolderSettings) -> FolderListing:
    """List the images below `root`, once for all jobs of a sweep, which are planned one after the other."""
    place = (root.absolute(), own)
    listed, listing = _recent.pop(place, (-math.inf, None))
    if listing is None or time.monotonic() - listed > REUSE_LISTING_FOR:
        listing = own.list(root)
    _recent.clear()
    _recent[place] = time.monotonic(), listing
    return listing


def _channels(listing: FolderListing) -> int:
    """Return 1 if all images are grayscale, else 3. Images are opened until one has colours."""
    return 1 if all(is_gray(listing.root / file.name) for file in listing.files) else 3
