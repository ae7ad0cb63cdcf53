"""The processes of a run on several devices: the first rank starts the others, and none outlives it.

Lightning can start them too, by issuing the command line once more. Here a rank is told what was decided, so that
it works from a notebook as well, waits for no lock, and its death is recorded.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

RANK = "ERSPARSE_RANK"  # what the first rank decided, for one that it starts, as JSON
GRACE = 10.0  # seconds in which a first rank that hangs can notice by itself that another has died
NOTICE = 2.0  # seconds after its own failure in which it looks for a dead one as the cause


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def others(count: int, decided: Mapping[str, Any], died: Callable[[str], None]) -> Iterator[None]:
    """Ranks 1 to `count` - 1 as processes, for the length of the `with`.

    Args:
        decided: what each is told, beside its "rank".
        died: called with a line if one of them dies while this process hangs in waiting for it; then this process
            ends with status 1.
    """
    ranks = [_start(rank, {**decided, "rank": rank}) for rank in range(1, count)]
    over, threads = threading.Event(), torch.get_num_threads()
    threading.Thread(target=_watch, args=(ranks, over, died), daemon=True).start()
    try:
        share_cores(count)
        yield
        for rank in ranks:
            rank.wait()
    except Exception as error:
        if fallen := _fallen(ranks, NOTICE):
            raise ChildProcessError(fallen) from error
        raise
    finally:
        over.set()
        for rank in ranks:
            rank.kill()
            rank.wait()
        torch.set_num_threads(threads)
        if distributed.is_initialized():  # or the next run of this process would take itself for one of several ranks
            distributed.destroy_process_group()


def share_cores(count: int) -> None:
    """Gives this rank its part of the cores: thread pools that fight over cores are many times slower."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))


def told() -> dict[str, Any]:
    """What the first rank decided for this one. From here on this process dies with the first."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    decided = json.loads(os.environ[RANK])
    if os.getppid() != decided["parent"]:
        sys.exit(1)
    assert isinstance(decided, dict)
    return decided


def _start(rank: int, decided: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    told_and_found = {
        RANK: json.dumps({**decided, "parent": os.getpid()}),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # where this process finds modules
    }
    command = [sys.executable, "-m", "ersparse.runs.rank"]
    return subprocess.Popen(command, env=os.environ | told_and_found, stdin=subprocess.DEVNULL, start_new_session=True)


def _fallen(ranks: list[subprocess.Popen[bytes]], wait: float) -> str | None:
    """A line about the first rank found dead within `wait` seconds."""
    until = time.monotonic() + wait
    while True:
        for number, rank in enumerate(ranks, 1):
            if code := rank.poll():
                how = signal.Signals(-code).name if code < 0 else f"status {code}"
                return f"rank {number} of {len(ranks) + 1} died ({how})"
        if time.monotonic() > until:
            return None
        time.sleep(0.05)


def _watch(ranks: list[subprocess.Popen[bytes]], over: threading.Event, died: Callable[[str], None]) -> None:
    """A collective that waits for a dead rank may wait for ever, deaf to signals: this thread ends the process."""
    while not over.wait(1.0):
        if fallen := _fallen(ranks, 0):
            if over.wait(GRACE):
                return
            died(fallen)
            os._exit(1)
