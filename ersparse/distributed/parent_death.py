"""Processes that end with their parent: jobs end with their sweep, and ranks with rank 0.

Every ersparse process leaves its process ID in the environment of the processes that it starts. A child asks the
kernel to kill it when its parent ends, for whatever reason (PR_SET_PDEATHSIG). This is available on Linux only:
elsewhere the jobs of a killed sweep run to their end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ersparse.distributed.signals import die_with_parent

PARENT = "ERSPARSE_PARENT"


def tie_to_parent() -> None:
    """End this process with the ersparse process that started it, if there is one, and its children with it."""
    parent, own = int(os.environ.get(PARENT, 0)), os.getpid()
    if parent not in (0, own) and sys.platform == "linux":
        if parent == os.getppid():
            die_with_parent()
            signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit SIG_IGN
        if not _descends_from(parent):  # the parent ended before the kernel was asked
            os._exit(1)
    os.environ[PARENT] = str(own)


def _descends_from(ancestor: int) -> bool:
    process = os.getppid()
    while process not in (0, ancestor):
        try:
            process = int(Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[1])
        except OSError:  # the process has ended, and its children have a new parent
            return os.getppid() == ancestor
    return process == ancestor
