"""Rank processes of a run on several devices: rank 0 starts the other ranks, and none of them outlives it.

Lightning could start them by issuing the command line again. Here rank 0 sends them the resolved settings instead.
This works from notebooks, avoids lock contention, and lets rank 0 record the failure of another rank.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from ersparse.distributed.process_group import abort_group, destroy_group
from ersparse.distributed.watchdog import RankProcesses, first_failed_rank, watch
from ersparse.errors import RunFailed

RANK = "ERSPARSE_RANK"  # environment variable with the settings that rank 0 sends to another rank, as JSON
START = "import sys; sys.path[:] = {path!r}; from ersparse.runs.rank_main import main; main()"
PORTS = range(15000, 32000)  # below the ephemeral ports of Linux, which are given to outgoing connections
FAILURE_WAIT = 2.0  # seconds after an exception of rank 0 in which it looks for a failed rank as the cause


class RankFailed(RuntimeError):
    """Another rank ended with an error, which it has printed."""


def free_port(address: str = "127.0.0.1") -> int:
    """Return a free port that Linux does not use for outgoing connections.

    A rank that tries to connect before rank 0 listens could otherwise be given that very port, and connect to itself.

    Raises:
        RunFailed: none of 100 random ports is free.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((address, port))
            return port
    raise RunFailed(f"{address}: 100 ports from {PORTS.start} to {PORTS.stop} were tried, and none is free")


@contextmanager
def launch_ranks(size: int, settings: Mapping[str, Any], on_exit: Callable[[str, str], None]) -> Iterator[None]:
    """Run ranks 1 to `size` - 1 as processes during the `with` block, which begins when all of them are ready.

    Args:
        size: number of ranks.
        settings: what each rank receives, besides its number.
        on_exit: called with a run state and a message before this process is ended, because it hangs in a collective
            operation after another rank failed, or after an interrupt (Ctrl-C or SIGTERM).

    Raises:
        ChildProcessError: a rank was killed.
        RankFailed: a rank failed.
    """
    threads = torch.get_num_threads()
    read_end, write_end = os.pipe()
    ranks = [_start_rank(settings, rank, write_end) for rank in range(1, size)]
    try:
        _wait_until_ready(ranks, read_end)
        with watch(ranks, on_exit):
            share_cores(size)
            yield
            destroy_group()  # before waiting for the others, which wait for this rank to do so
        for process in ranks:
            process.wait()
    except Exception as error:
        _raise_failed_rank(ranks, FAILURE_WAIT, error)
        raise
    finally:
        _kill(ranks)
        abort_group()
        for end in (read_end, write_end):
            os.close(end)
        torch.set_num_threads(threads)


def share_cores(size: int) -> None:
    """Limit this rank's threads to its share of the cores: oversubscribed thread pools are many times slower."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // size))


def _start_rank(settings: Mapping[str, Any], rank: int, ready: int) -> subprocess.Popen[bytes]:
    """Start a rank, which writes a byte to the file descriptor `ready` once it is ready to train."""
    command = [sys.executable, "-c", START.format(path=[path or os.getcwd() for path in sys.path])]
    values = {**settings, "rank": rank, "local": rank, "node": 0, "ready": ready, "parent": os.getpid()}
    environment = os.environ | {RANK: json.dumps(values)}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[ready]
    )


def _wait_until_ready(ranks: RankProcesses, ready: int) -> None:
    """Wait in Python, where signals are handled, and not in PyTorch's rendezvous, where they are not."""
    missing = len(ranks)
    while missing:
        if select.select([ready], [], [], 0.1)[0]:
            missing -= len(os.read(ready, missing))
        else:
            _raise_failed_rank(ranks, 0, None)


def _raise_failed_rank(ranks: RankProcesses, seconds: float, cause: Exception | None) -> None:
    """Raise the failure of another rank, if one is found within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (failed := first_failed_rank(ranks)) and time.monotonic() < deadline:
        time.sleep(0.05)
    if failed:
        kind = ChildProcessError if failed.was_killed else RankFailed
        raise kind(failed.describe(len(ranks) + 1)) from cause


def _kill(ranks: RankProcesses) -> None:
    for process in ranks:
        process.kill()
        process.wait()
