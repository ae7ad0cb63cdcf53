"""Signal handling: a termination signal interrupts a run as Ctrl-C does, so that it is recorded and can resume."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PR_SET_PDEATHSIG = 1


def interrupt(*_: Any) -> None:
    """Handle a signal by raising KeyboardInterrupt.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM during the `with` block, unless the program has a handler of its own.

    On exit the handlers of SIGINT and SIGTERM are restored: Lightning leaves Ctrl-C without effect once it has
    interrupted a run. Outside the main thread, which alone can set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if previous[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)
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


def die_with_parent() -> None:
    """Ask the kernel to send SIGKILL to this process when its parent ends, for whatever reason (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
