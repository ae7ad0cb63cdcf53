"""Decoding of a folder of images, with damaged images counted and named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import track

from ersparse.data.folder_listing import FolderListing, ImageFile
from ersparse.data.image_cache import DecodedImages, check_memory
from ersparse.data.image_files import CHUNK, Decoded, decode_all
from ersparse.errors import UserError

NAMED = 5  # damaged images that a message names


@dataclass(frozen=True)
class FolderDecoder:
    """Decodes the images of a folder.

    Attributes:
        listing: of the folder.
        side: height and width of the decoded images in pixels.
        channels: 1 for gray values, 3 for RGB.
        damaged: "error", or "skip", which leaves damaged images out.
        reasons: why an image could not be decoded, by its name.
    """

    listing: FolderListing
    side: int
    channels: int
    damaged: str
    reasons: dict[str, str] = field(default_factory=dict)

    def decode(self) -> DecodedImages:
        """Return the images of both splits.

        Raises:
            UserError: images are damaged, and are not to be left out or leave a class empty; or there are too many.
        """
        check_memory(len(self.listing.files), self.side, self.channels)
        images = (*self._decode(self.listing.train, "training"), *self._decode(self.listing.test, "test"))
        decoded = DecodedImages(*images, list(self.reasons))
        if self.reasons:
            self._check_damaged(decoded)
        return decoded

    def _decode(self, files: Sequence[ImageFile], part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images uint8 [N, side, side, C] and labels int64 [N] of the files that are not damaged."""
        images = np.empty((len(files), self.side, self.side, self.channels), np.uint8)
        intact = np.ones(len(files), bool)
        for start, decoded in self._chunks(files, part):
            images[start : start + CHUNK] = decoded.images
            for number, reason in decoded.damaged:
                intact[start + number] = False
                self.reasons[files[start + number].name] = reason
        labels = np.array([file.label for file in files], np.int64)
        return (images, labels) if intact.all() else (images[intact], labels[intact])

    def _chunks(self, files: Sequence[ImageFile], part: str) -> Iterator[tuple[int, Decoded]]:
        """Yield the first position and the images of each chunk, and show a progress bar in a terminal."""
        paths = [self.listing.root / file.name for file in files]
        decoded = decode_all(paths, sum(file.size for file in files), self.side, self.channels)
        starts, console = range(0, len(files), CHUNK), Console(stderr=True)
        hidden = not console.is_terminal
        progress = track(decoded, f"decoding {part} images", len(starts), console=console, disable=hidden)
        return zip(starts, progress, strict=True)

    def _check_damaged(self, decoded: DecodedImages) -> None:
        listing = self.listing
        if self.damaged == "error":
            name, reason = next(iter(self.reasons.items()))
            raise UserError(
                f"dataset.damaged=error: {_shown(name)} in dataset.root={listing.root} cannot be decoded ({reason}), "
                f"{len(self.reasons)} of {len(listing.files)} images in all; must be repaired or removed, or left out "
                "by dataset.damaged=skip"
            )
        for part, labels in (("training", decoded.y_train), ("test", decoded.y_test)):
            if missing := [name for label, name in enumerate(listing.classes) if label not in labels]:
                raise UserError(
                    f"dataset.damaged=skip: leaves no {part} images of class {missing[0]} in "
                    f"dataset.root={listing.root}, {left_out(decoded.damaged, listing)}"
                )


def left_out(damaged: Sequence[str], listing: FolderListing) -> str:
    """Return the number of damaged images, and the names of the first, in words."""
    names = ", ".join(map(_shown, damaged[:NAMED])) + (", …" if len(damaged) > NAMED else "")
    return f"{len(damaged)} of {len(listing.files)} images cannot be decoded and are left out: {names}"


def _shown(name: str) -> str:
    """Return a file name that can be printed, whatever its encoding."""
    return os.fsencode(name).decode(errors="replace")
