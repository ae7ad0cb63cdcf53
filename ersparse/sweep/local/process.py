"""One job as a process of its own, with its output in a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ersparse.config.options import LAUNCH, PACKAGE

COMMAND = [str(LAUNCH)] if LAUNCH.is_file() else ["-m", "ersparse", "run"]
SERVE = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); from ersparse.cli.fork_server import serve; serve()"


class Process:
    """A job in a session of its own: signals reach its ranks as well, and a Ctrl-C at the terminal does not."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], cores: set[int], log: Path) -> None:
        self.began = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.popen = _started([*COMMAND, *words], environment, cores, stdin=subprocess.DEVNULL, stdout=output)

    def poll(self) -> int | None:
        """The exit status, once it has ended; what it left behind is then gone as well."""
        status = self.popen.poll()
        if status is not None:
            self.kill()
        return status

    def interrupt(self) -> None:
        """Asks it to stop: the run keeps its last checkpoint."""
        _signal(self.popen.pid, signal.SIGINT)

    def kill(self) -> None:
        _signal(self.popen.pid, signal.SIGKILL)


class Worker:
    """A warm process that forks for one job after another (`ersparse.cli.fork_server`)."""

    def __init__(self, environment: Mapping[str, str], cores: set[int]) -> None:
        self.popen = _started(["-c", SERVE], environment, cores, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.popen.stdout
        os.set_blocking(self.popen.stdout.fileno(), False)

    def start(self, words: Sequence[str], log: Path) -> Forked:
        """Gives it a job; it takes one at a time."""
        assert self.popen.stdin
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        with suppress(BrokenPipeError):  # it has died: the job then says so
            self.popen.stdin.write(json.dumps([list(words), str(log)]).encode() + b"\n")
            self.popen.stdin.flush()
        return Forked(self.popen)

    def close(self) -> None:
        self.popen.kill()
        self.popen.communicate()


class Forked:
    """A job that a warm process works on, as a `Process` shows it."""

    def __init__(self, worker: subprocess.Popen[bytes]) -> None:
        self.worker, self.began, self.answers = worker, time.monotonic(), b""

    def poll(self) -> int | None:
        assert self.worker.stdout
        self.answers += self.worker.stdout.read() or b""
        lines = self.answers.split(b"\n")
        if len(lines) > 2:
            return int(lines[1])
        return self.worker.poll()

    def interrupt(self) -> None:
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None and b"\n" in self.answers:
            _signal(int(self.answers.split(b"\n")[0]), number)


def _started(
    arguments: Sequence[str], environment: Mapping[str, str], cores: set[int], stdin: int, stdout: Any
) -> subprocess.Popen[bytes]:
    """A Python process in a session of its own, on these cores; stderr goes to its log, if it has one."""
    popen = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL if stdout == subprocess.PIPE else subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # it has ended
            os.sched_setaffinity(popen.pid, cores)
    return popen


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
