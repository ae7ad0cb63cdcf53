"""Data sets of Hugging Face, read once and cached, or streamed. Imports torch only when images are loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ersparse.config.from_data import described_by
from ersparse.config.groups import build
from ersparse.data.huggingface_splits import HuggingfaceSplits, open_splits
from ersparse.data.huggingface_tables import HuggingfaceArgs
from ersparse.data.image_cache import ImageCache, kept_statistics
from ersparse.data.image_files import PixelFormat
from ersparse.data.opened_images import decode_splits, scan_splits, stream_splits
from ersparse.data.placement import is_streamed, streamed_by
from ersparse.data.recent import Recent
from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.config.dataset_settings import DatasetSettings
    from ersparse.data.arrays import Arrays
    from ersparse.data.streamed import StreamedImages

recent_splits: Recent[HuggingfaceSplits] = Recent(2.0)


def describe(dataset: DatasetSettings, unknown: Collection[str]) -> dict[str, Any]:
    """Read settings of the data set from its images.

    Images are decoded only if their mean or standard deviation is asked for.

    Args:
        dataset: settings, in which the values of unknown keys are placeholders.
        unknown: keys that are asked for.

    Raises:
        UserError: the data set cannot be opened, or has no labelled images for training and testing.
    """
    own = dataset.own_keys()
    splits = _splits(Path(dataset.root), dataset.download, own.get("args") or {}, own.get("digest"))
    channels = splits.channels if "channels" in unknown else dataset.channels
    found: dict[str, Any] = {
        "num_classes": splits.num_classes,
        "images": (len(splits.train.labels), len(splits.test.labels)),
        "channels": channels,
        "digest": splits.digest,
    }
    if {"mean", "std"} & set(unknown):
        form, root = PixelFormat(dataset.size, channels, dataset.resize), Path(dataset.root)
        if is_streamed(dataset, found["images"]):
            statistics = kept_statistics(root, _key(splits, form), lambda: scan_splits(splits.train, splits.test, form))
        else:
            statistics = _cache(root, splits, form).statistics()
        found |= {"mean": statistics.mean, "std": statistics.std}
    return {key: found[key] for key in unknown}


def stream(
    root: Path, download: bool, *, form: PixelFormat, args: Mapping[str, Any], digest: str | None = None
) -> StreamedImages:
    """Return the images of a data set of Hugging Face, which are decoded whenever they are read; see `load`."""
    splits = _splits(root, download, args, digest)
    return stream_splits(splits.train, splits.test, form, splits.digest)


@streamed_by(stream)
@described_by(describe, not_identity=["args"])  # what they name is identified by the digest
def load(
    root: Path, download: bool, *, form: PixelFormat, args: Mapping[str, Any], digest: str | None = None
) -> Arrays:
    """Load a data set of Hugging Face, resized to cover `dataset.image_size`, and cropped to the centre.

    Args:
        root: folder of the cache, and of the data set if `args.path` is a folder in it.
        download: whether the data set may be downloaded.
        form: of the images.
        args: see `HuggingfaceArgs`.
        digest: of names, sizes and labels of the images; None accepts any.

    Raises:
        UserError: the data set cannot be opened, has no labelled images for training and testing, or is not that of
            `digest`.
    """
    from ersparse.data.npz_cache import read_npz

    return read_npz(_cache(root, _splits(root, download, args, digest), form).path)


def _splits(root: Path, download: bool, args: Mapping[str, Any], digest: str | None) -> HuggingfaceSplits:
    """Open a data set, once for all jobs of a sweep, and check its digest."""
    checked = build(HuggingfaceArgs, args, "dataset.args.")
    splits = recent_splits.get((root.absolute(), download, checked), lambda: open_splits(root, download, checked))
    if digest not in (None, splits.digest):
        raise UserError(
            f"dataset.digest={digest}: the images of dataset.args.path={checked.path} are others, of digest "
            f"{splits.digest}; must be unchanged, or dataset.digest null, which starts a new run with them"
        )
    return splits


def _key(splits: HuggingfaceSplits, form: PixelFormat) -> str:
    return f"huggingface-{form.key}-{splits.digest}"


def _cache(root: Path, splits: HuggingfaceSplits, form: PixelFormat) -> ImageCache:
    return ImageCache(root, _key(splits, form), lambda: decode_splits(splits.train, splits.test, form))
