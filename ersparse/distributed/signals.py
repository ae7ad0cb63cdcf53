"""A termination signal interrupts a run as Ctrl-C does: it is recorded, and can be resumed."""

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
    """A signal handler.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside the `with`, unless the program has a handler of its own.

    Afterwards Ctrl-C means what it did before: Lightning leaves it without effect once it has interrupted a run.
    Outside the main thread, which alone can take signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGTERM] is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def take_back() -> None:
    """Our handler alone, where Lightning has put its own in front: that one waits for ranks which may never come."""
    if interrupt in getattr(signal.getsignal(signal.SIGTERM), "signal_handlers", ()):
        signal.signal(signal.SIGTERM, interrupt)


def die_with_parent() -> None:
    """SIGKILL when the process that started this one ends, however it ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
