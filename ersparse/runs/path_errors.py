"""Errors of the operating system about paths of the configuration, as one line that names the key. Imports no torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ersparse.errors import UserError

KEYS = ("paths.root", "paths.cache", "dataset.root", "model.init_from", "sparsity.file")
REASONS = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS}


@contextmanager
def path_errors(values: Mapping[str, Any]) -> Iterator[None]:
    """Turn an `OSError` about a path that the user may not access, or that cannot exist, into a `UserError`.

    Args:
        values: the configuration of the run, as plain values or settings dumped to them.
    """
    try:
        yield
    except OSError as error:
        if error.errno in REASONS and (where := _setting(values, str(error.filename))):
            raise UserError(f"{where}: {error.filename} cannot be accessed ({error.strerror})") from None
        raise


def _setting(values: Mapping[str, Any], file: str) -> str | None:
    """Return `key=value` of the innermost path of the configuration that `file` is or lies in."""
    found = []
    for key in KEYS:
        group, name = key.split(".")
        value = (values.get(group) or {}).get(name)
        folder = os.path.abspath(os.path.expanduser(value)) if isinstance(value, str) and value else None
        if folder and Path(os.path.abspath(file)).is_relative_to(folder):
            found.append((len(folder), f"{key}={value}"))
    return max(found)[1] if found else None
