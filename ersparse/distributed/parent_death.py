"""No process outlives the one that started it: jobs die with their sweep, ranks with their first rank.

Each process of ours leaves its number in the environment for those that it starts; they ask the kernel to be killed
when it ends, however it ends. Linux only: elsewhere the jobs of a killed sweep run to their end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ersparse.distributed.signals import die_with_parent

PARENT = "ERSPARSE_PARENT"


def tie_to_parent() -> None:
    """Makes this process die with the process of ours that started it, if one did; and those it starts, with it."""
    parent, own = int(os.environ.get(PARENT, 0)), os.getpid()
    if parent not in (0, own) and sys.platform == "linux":
        if parent == os.getppid():
            die_with_parent()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a sweep started with & would have it ignored
        if not _descends_from(parent):  # it ended before the kernel was told
            os._exit(1)
    os.environ[PARENT] = str(own)


def _descends_from(ancestor: int) -> bool:
    process = os.getppid()
    while process not in (0, ancestor):
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile, and its children were passed on
            return os.getppid() == ancestor
    return process == ancestor
