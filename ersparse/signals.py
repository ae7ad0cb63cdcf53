"""A termination signal interrupts a run as Ctrl-C does: it is recorded, and can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def interrupt(*_: Any) -> None:
    """A signal handler.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside the `with`.

    Not where the program has a handler of its own, nor outside the main thread, which alone can take signals.
    """
    ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ours = ours and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def take_back() -> None:
    """Our handler alone, where Lightning has put its own in front: that one waits for ranks which may never come."""
    if interrupt in getattr(signal.getsignal(signal.SIGTERM), "signal_handlers", ()):
        signal.signal(signal.SIGTERM, interrupt)
