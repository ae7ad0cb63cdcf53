"""Decoding of a folder of images, with damaged images counted and named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import track

from ersparse.data.file_table import FileTable
from ersparse.data.folder_listing import FolderListing, shown
from ersparse.data.image_cache import DecodedImages, PixelCounts, Statistics, check_memory
from ersparse.data.image_files import CHUNK, Decoded, PixelFormat, decode_all
from ersparse.errors import UserError

NAMED = 5  # damaged images that a message names


@dataclass(frozen=True)
class FolderDecoder:
    """Decodes the images of a folder.

    Attributes:
        listing: of the folder.
        form: of the decoded images.
        damaged: "error", or "skip", which leaves damaged images out.
        reasons: why an image could not be decoded, by its name.
    """

    listing: FolderListing
    form: PixelFormat
    damaged: str
    reasons: dict[str, str] = field(default_factory=dict)

    def decode(self) -> DecodedImages:
        """Return the images of both splits.

        Raises:
            UserError: images are damaged, and are not to be left out or leave a class empty; or there are too many.
        """
        check_memory(len(self.listing), self.form)
        images = (*self._decode(self.listing.train, "training"), *self._decode(self.listing.test, "test"))
        decoded = DecodedImages(*images, list(self.reasons))
        if self.reasons:
            self._check_damaged(decoded.y_train, decoded.y_test, decoded.damaged)
        return decoded

    def scan(self) -> Statistics:
        """Decode all images without keeping them, and return their statistics.

        Raises:
            UserError: as `decode`.
        """
        check_memory(min(CHUNK, len(self.listing)), self.form)  # of one chunk
        counts = PixelCounts(self.form.channels)
        intact: list[np.ndarray] = []
        for files, part in ((self.listing.train, "training"), (self.listing.test, "test")):
            labels, kept_labels = files.labels, []
            for start, decoded in self._chunks(files, part):
                kept = np.ones(len(decoded.images), bool)
                for number, reason in decoded.damaged:
                    kept[number] = False
                    self.reasons[files[start + number].name] = reason
                kept_labels.append(labels[start : start + len(kept)][kept])
                if part == "training":
                    counts.add(decoded.images[kept])
            intact.append(np.concatenate(kept_labels))
        if self.reasons:
            self._check_damaged(intact[0], intact[1], list(self.reasons))
        images = (len(intact[0]), len(intact[1]))
        return Statistics(len(self.listing.classes), images, *counts.mean_and_std(), list(self.reasons))

    def _decode(self, files: FileTable, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return images uint8 [N, height, width, C] and labels int64 [N] of the files that are not damaged."""
        images = np.empty((len(files), *self.form.shape), np.uint8)
        intact = np.ones(len(files), bool)
        for start, decoded in self._chunks(files, part):
            images[start : start + CHUNK] = decoded.images
            for number, reason in decoded.damaged:
                intact[start + number] = False
                self.reasons[files[start + number].name] = reason
        labels = files.labels
        return (images, labels) if intact.all() else (images[intact], labels[intact])

    def _chunks(self, files: FileTable, part: str) -> Iterator[tuple[int, Decoded]]:
        """Yield the first position and the images of each chunk, and show a progress bar in a terminal."""
        paths = (self.listing.root / file.name for file in files)
        decoded = decode_all(paths, files.total_size, self.form)
        starts, console = range(0, len(files), CHUNK), Console(stderr=True)
        hidden = not console.is_terminal
        progress = track(decoded, f"decoding {part} images", len(starts), console=console, disable=hidden)
        return zip(starts, progress, strict=True)

    def _check_damaged(self, y_train: np.ndarray, y_test: np.ndarray, damaged: Sequence[str]) -> None:
        listing = self.listing
        if self.damaged == "error":
            name, reason = next(iter(self.reasons.items()))
            raise UserError(
                f"dataset.damaged=error: {shown(name)} in dataset.root={listing.root} cannot be decoded ({reason}), "
                f"{len(self.reasons)} of {len(listing)} images in all; must be repaired or removed, or left out "
                "by dataset.damaged=skip"
            )
        for part, labels in (("training", y_train), ("test", y_test)):
            if missing := sorted(set(range(len(listing.classes))) - set(labels.tolist())):
                raise UserError(
                    f"dataset.damaged=skip: leaves no {part} images of class {shown(listing.classes[missing[0]])} in "
                    f"dataset.root={listing.root}, {left_out(damaged, listing)}"
                )


def left_out(damaged: Sequence[str], listing: FolderListing) -> str:
    """Return the number of damaged images, and the names of the first, in words."""
    names = ", ".join(map(shown, damaged[:NAMED])) + (", …" if len(damaged) > NAMED else "")
    return f"{len(damaged)} of {len(listing)} images cannot be decoded and are left out: {names}"
