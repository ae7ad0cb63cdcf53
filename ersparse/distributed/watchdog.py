"""Watchdog of rank 0: ends the process if it hangs in a collective operation after a failure or an interrupt."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ersparse.distributed.failed_rank import FailedRank
from ersparse.distributed.signals import STOP_SIGNALS

GRACE_PERIOD = 10.0  # seconds in which rank 0 can leave a collective operation by itself before its process is ended

RankProcesses = list[subprocess.Popen[bytes]]  # of ranks 1, 2, ...


def first_failed_rank(ranks: RankProcesses) -> FailedRank | None:
    """Return the first rank that has ended with an error, or None."""
    return next((FailedRank(rank, process.returncode) for rank, process in enumerate(ranks, 1) if process.poll()), None)


@contextmanager
def watch(ranks: RankProcesses, on_exit: Callable[[str, str], None]) -> Iterator[None]:
    """Watch the ranks and the signals of this process from a thread during the `with` block.

    Args:
        ranks: processes of ranks 1, 2, ...
        on_exit: called with a run state and a message before this process is ended.
    """
    finished = threading.Event()
    with _signal_descriptor() as signals:
        thread = threading.Thread(target=_run, args=(ranks, finished, signals, on_exit), daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()


@contextmanager
def _signal_descriptor() -> Iterator[int | None]:
    """Yield a file descriptor with the signals received, also while the main thread waits inside a collective.

    It is None outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    previous = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    try:
        yield read_end
    finally:
        signal.set_wakeup_fd(previous)
        os.close(write_end)
        os.close(read_end)


def _received_signals(signals: int | None) -> set[int]:
    if signals is None or not select.select([signals], [], [], 0)[0]:
        return set()
    return set(os.read(signals, 100))


def _run(
    ranks: RankProcesses, finished: threading.Event, signals: int | None, on_exit: Callable[[str, str], None]
) -> None:
    """End this process if a rank fails or a signal arrives and the main thread does not react within `GRACE_PERIOD`.

    A collective operation may wait for a failed rank for ever, and no signal handler runs while it waits.
    """
    state = message = ""
    while not message:
        if finished.wait(0.5):
            return
        if failed := first_failed_rank(ranks):
            state, message = "failed", failed.describe(len(ranks) + 1)
        elif _received_signals(signals) & {signal.SIGINT, *STOP_SIGNALS}:
            state, message = "preempted", "interrupted"
    if not finished.wait(GRACE_PERIOD):
        on_exit(state, message)
        for process in ranks:
            process.kill()
        os._exit(130 if state == "preempted" else 1)
