"""No process outlives the one that started it: jobs die with their sweep, ranks with their first rank.

Each process of ours leaves its number in the environment for those that it starts; they ask the kernel to be killed
when it ends, however it ends. Linux only; elsewhere a killed sweep leaves its jobs running to their end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "ERSPARSE_PARENT"
PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Makes this process die with the process of ours that started it, if one did, and children of ours with it."""
    if PARENT in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[PARENT]):  # it ended before the kernel was told
            os._exit(1)
    os.environ[PARENT] = str(os.getpid())
