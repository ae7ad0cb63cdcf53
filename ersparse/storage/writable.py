"""Whether a folder can be written, found out without creating anything. Imports no torch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ersparse.errors import UserError


def check_writable(folder: Path) -> None:
    """Check that a folder below `paths.root` can be written, or created if it does not exist.

    Some file systems refuse a new file for reasons of their own, such as a quota, which only writing one shows.

    Raises:
        UserError: it cannot.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if number := _obstacle(nearest):
        raise UserError(f"paths.root: {folder} cannot be written ({os.strerror(number)})")


def _obstacle(place: Path) -> int:
    """Return the number of the error that a new file in `place` would meet, or 0."""
    if not place.is_dir():
        return errno.ENOENT if place.is_symlink() and not place.exists() else errno.ENOTDIR
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return errno.EROFS
    return 0 if os.access(place, os.W_OK | os.X_OK) else errno.EACCES
