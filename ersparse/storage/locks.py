"""File locks around work that one process does for all. Imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("ersparse")


@contextmanager
def exclusive(lock_file: Path, product: Path | None = None) -> Iterator[None]:
    """Hold `lock_file`, whose folder is created if needed; the lock is released when the block or the process ends.

    Args:
        lock_file: the file that is locked.
        product: what is made under the lock. If given, a message says that another process is making it.

    Raises:
        OSError: the lock file cannot be created.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if product:
            log.info(f"another process makes {product}; waiting for it")
        held = lock.acquire()
    with held:
        yield
