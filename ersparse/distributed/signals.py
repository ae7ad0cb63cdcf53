"""Signal handling: a termination signal interrupts a run as Ctrl-C does, so that it is recorded and can resume.

Schedulers announce the end of a job by SIGTERM, or by a signal that the user chooses, usually SIGUSR1 or SIGUSR2
(`sbatch --signal`, `bsub -wa`, `qsub -notify`). By default each of them kills a process before it can record anything.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1
NOTIFICATIONS = (signal.SIGUSR1, signal.SIGUSR2)  # by which schedulers announce the end of a job
STOP_SIGNALS = (signal.SIGTERM, *NOTIFICATIONS)


def interrupt(*_: Any) -> None:
    """Handle a signal by raising KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on `STOP_SIGNALS` during the `with` block, unless the program handles or ignores them.

    On exit their handlers and that of SIGINT are restored: Lightning leaves Ctrl-C without effect once it has
    interrupted a run. Outside the main thread, which alone can set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGINT)}
    for number in STOP_SIGNALS:
        if previous[number] is signal.SIG_DFL:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def take_back() -> None:
    """Restore `interrupt` as the only SIGTERM handler, if Lightning has wrapped it.

    Lightning's handler waits for all ranks, some of which may have ended.
    """
    if interrupt in getattr(signal.getsignal(signal.SIGTERM), "signal_handlers", ()):
        signal.signal(signal.SIGTERM, interrupt)


def ignore_notifications() -> None:
    """Ignore `NOTIFICATIONS`: a scheduler signals every process of a job, and rank 0 alone reacts."""
    for number in NOTIFICATIONS:
        signal.signal(number, signal.SIG_IGN)


def die_with_parent() -> None:
    """Ask the kernel to send SIGKILL to this process when its parent ends, for whatever reason (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
