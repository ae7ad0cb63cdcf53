"""How a rank leaves the process group: together with the others after success, and alone after an error."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import distributed
from torch.distributed import distributed_c10d

ABORT_WAIT = 5.0  # seconds for the communicators to be aborted; after an error they may never be


@contextmanager
def leaving_group() -> Iterator[None]:
    """Leave the process group that is initialised during the `with` block, if any, when the block ends.

    With NCCL, `destroy_process_group` is a collective call of the ranks of a node, so every rank makes it as soon as it
    has trained, and before it waits for another to end. After an exception the others may never make it; the group is
    then aborted.
    """
    try:
        yield
    except BaseException:
        abort_group()
        raise
    destroy_group()


def destroy_group() -> None:
    """Destroy the process group together with the other ranks. Without a group nothing happens."""
    if _initialised():
        distributed.destroy_process_group()


def abort_group() -> None:
    """Leave the process group without the other ranks, and wait at most `ABORT_WAIT` seconds for it.

    Otherwise Lightning would destroy the group when the process exits, and wait for operations that never end. The next
    run of this process would also be taken for one of several ranks.
    """
    if not _initialised():
        return
    thread = threading.Thread(target=_abort, daemon=True)
    thread.start()
    thread.join(ABORT_WAIT)
    if _initialised():
        distributed_c10d._update_default_pg(None)


def exit_on_error(status: int = 1) -> None:
    """Print the current exception, and end this process at once, without the exit handlers that wait for other ranks.

    Rank 0 looks for ranks that have ended, and names this one.

    Args:
        status: exit status of the process.
    """
    traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _abort() -> None:
    with suppress(Exception):  # of a group that has already failed
        distributed_c10d._abort_process_group()


def _initialised() -> bool:
    return distributed.is_available() and distributed.is_initialized()
