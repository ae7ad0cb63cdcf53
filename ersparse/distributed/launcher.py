"""The processes of a run on several devices: the first rank starts the others, and none outlives it.

Lightning can start them too, by issuing the command line once more. Here a rank is told what was decided, so that
it works from a notebook as well, waits for no lock, and its death is recorded.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import distributed

from ersparse.errors import RunFailed

RANK = "ERSPARSE_RANK"  # what the first rank decided, for one that it starts, as JSON
START = "import sys; sys.path[:] = {path!r}; from ersparse.runs.rank_main import main; main()"
GRACE = 10.0  # seconds in which a first rank that hangs can notice by itself that it should end
LISTENING = range(15000, 32000)  # ports below those that Linux gives to connections
NOTICE = 2.0  # seconds after its own failure in which it looks for a dead one as the cause

RankProcesses = list[subprocess.Popen[bytes]]


class RankFailed(RuntimeError):
    """Another rank ended with an error, which it has printed."""


def free_port(address: str = "127.0.0.1") -> int:
    """A free port, of those that no connection is given: one that is tried again and again before the first rank
    listens could otherwise come from that very port, and meet itself.
    """
    for port in random.SystemRandom().sample(LISTENING, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, port))
            return port
    raise RunFailed(f"{address}: 100 ports from {LISTENING.start} to {LISTENING.stop} were tried, and none is free")


@contextmanager
def launch_ranks(count: int, decided: Mapping[str, Any], ended: Callable[[str, str], None]) -> Iterator[None]:
    """Ranks 1 to `count` - 1 as processes, for the length of the `with`, which begins when all are ready.

    Args:
        decided: what each is told, beside its number.
        ended: called with a state and a line where this process hangs in waiting for another that died, or is deaf
            to Ctrl-C and SIGTERM because it waits; then this process ends.

    Raises:
        ChildProcessError: a rank was killed.
        RankFailed: a rank failed.
    """
    ready, told = os.pipe()
    own = [{"rank": rank, "local": rank, "node": 0, "ready": told} for rank in range(1, count)]
    ranks = [_start({**decided, **its}, told) for its in own]
    over, threads = threading.Event(), torch.get_num_threads()
    try:
        _all_ready(ranks, ready)
        with _signals() as signals:
            watch = threading.Thread(target=_watch, args=(ranks, over, signals, ended), daemon=True)
            watch.start()
            try:
                share_cores(count)
                yield
            finally:
                over.set()
                watch.join()
        for rank in ranks:
            rank.wait()
    except Exception as error:
        _raise_fallen(ranks, NOTICE, error)
        raise
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
        for end in (ready, told):
            os.close(end)
        torch.set_num_threads(threads)
        if distributed.is_initialized():  # or the next run of this process would take itself for one of several ranks
            distributed.destroy_process_group()


def share_cores(count: int) -> None:
    """Gives this rank its part of the cores: thread pools that fight over cores are many times slower."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))


def _start(decided: Mapping[str, Any], told: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", START.format(path=[path or os.getcwd() for path in sys.path])]
    environment = os.environ | {RANK: json.dumps({**decided, "parent": os.getpid()})}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[told])


def _all_ready(ranks: RankProcesses, ready: int) -> None:
    """Waits here, where a signal is heard, and not in a rendezvous."""
    missing = len(ranks)
    while missing:
        if select.select([ready], [], [], 0.1)[0]:
            missing -= len(os.read(ready, missing))
        else:
            _raise_fallen(ranks, 0, None)


def _fallen(ranks: RankProcesses) -> tuple[int, int] | None:
    """Number and exit status of a rank that ended with an error."""
    return next(((number, rank.returncode) for number, rank in enumerate(ranks, 1) if rank.poll()), None)


def _said(fallen: tuple[int, int], ranks: RankProcesses) -> str:
    number, code = fallen
    how = f"died ({signal.Signals(-code).name})" if code < 0 else f"failed (status {code}), as printed above"
    return f"rank {number} of {len(ranks) + 1} {how}"


def _raise_fallen(ranks: RankProcesses, wait: float, cause: Exception | None) -> None:
    """Raises the end of another rank, if one is found within `wait` seconds."""
    until = time.monotonic() + wait
    while not (fallen := _fallen(ranks)) and time.monotonic() < until:
        time.sleep(0.05)
    if fallen:
        kind = ChildProcessError if fallen[1] < 0 else RankFailed
        raise kind(_said(fallen, ranks)) from cause


@contextmanager
def _signals() -> Iterator[int | None]:
    """A file descriptor on which signals can be read, also while the main thread waits inside a collective."""
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        os.close(read)


def _heard(signals: int | None) -> set[int]:
    if signals is None or not select.select([signals], [], [], 0)[0]:
        return set()
    return set(os.read(signals, 100))


def _watch(ranks: RankProcesses, over: threading.Event, signals: int | None, ended: Callable[[str, str], None]) -> None:
    """A collective that waits for a rank may wait for ever, deaf to signals: this thread ends the process."""
    state = line = ""
    while not line:
        if over.wait(0.5):
            return
        if fallen := _fallen(ranks):
            state, line = "failed", _said(fallen, ranks)
        elif _heard(signals) & {signal.SIGINT, signal.SIGTERM}:
            state, line = "preempted", "interrupted"
    if not over.wait(GRACE):
        ended(state, line)
        for rank in ranks:
            rank.kill()
        os._exit(130 if state == "preempted" else 1)
