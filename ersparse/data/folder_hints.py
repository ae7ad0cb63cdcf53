"""What a folder holds in place of images, for messages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ersparse.data.image_files import SUFFIXES

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
ARRAYS = (
    *(".npz", ".npy", ".h5", ".hdf5", ".mat", ".pt"),
    *(".parquet", ".arrow", ".tfrecord", ".tfrecords", ".lmdb", ".mdb"),
)
UNREAD = (  # images
    *(".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".svg", ".psd"),
    *(".dng", ".cr2", ".nef", ".arw", ".dcm", ".npy"),
)


def hint(root: Path) -> str | None:
    """Return why a folder may have no images by class, as the end of a sentence; None if nothing is found."""
    files = [root] if root.is_file() else sorted(path for path in root.glob("*") if path.is_file())
    files += [] if root.is_file() else sorted(root.glob("*/*/*"))[:100]
    for path in (path for path in files if not path.name.startswith(".")):
        suffix = path.suffix.lower()
        if suffix in ARCHIVES:
            return f"{path.name} has to be unpacked"
        if suffix in ARRAYS + UNREAD:
            return f"{suffix} files such as {path.name} are not read, but image files ({', '.join(SUFFIXES)})"
    nested = (path for path in sorted(root.glob("*/*")) if path.name.lower() in ("train", "training") and path.is_dir())
    folder = next(nested, None)
    return f"dataset.root={folder.parent}, which has {folder.name}/, may be meant" if folder else None


def unread(skipped: Counter[str]) -> str:
    """Return how many files of which formats are left out, in words."""
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
