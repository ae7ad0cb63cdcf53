"""Processes of jobs: each in a session of its own, with its output in a log file."""

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
from ersparse.errors import UserError

COMMAND = [str(LAUNCH)] if LAUNCH.is_file() else ["-m", "ersparse", "run"]
SERVE = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); from ersparse.cli.fork_server import serve; serve()"


class Process:
    """A job in a session of its own: signals reach all of its ranks, and Ctrl-C at the terminal reaches none."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], cores: set[int], log: Path) -> None:
        """Start the job.

        Args:
            arguments: command-line arguments of the run.
            environment: all environment variables of the process.
            cores: CPU affinity.
            log: file for its output.
        """
        self.started_at = time.monotonic()
        _create(log)
        with log.open("wb") as output:
            command = [*COMMAND, *arguments]
            self.popen = _start_python(command, environment, cores, stdin=subprocess.DEVNULL, stdout=output)

    def poll(self) -> int | None:
        """Return the exit status, or None while the job runs. Ranks that outlive the job are killed."""
        status = self.popen.poll()
        if status is not None:
            self.kill()
        return status

    def interrupt(self) -> None:
        """Interrupt the run, which keeps its last checkpoint."""
        _signal_group(self.popen.pid, signal.SIGINT)

    def kill(self) -> None:
        _signal_group(self.popen.pid, signal.SIGKILL)


class ForkServer:
    """Client of a fork server (`ersparse.cli.fork_server`), which forks for one job after another."""

    def __init__(self, environment: Mapping[str, str], cores: set[int]) -> None:
        """Start the server with this environment and CPU affinity, which its jobs inherit."""
        self.popen = _start_python(["-c", SERVE], environment, cores, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.popen.stdout
        os.set_blocking(self.popen.stdout.fileno(), False)

    def start(self, arguments: Sequence[str], log: Path) -> ForkedProcess:
        """Start a job. The server runs one job at a time."""
        assert self.popen.stdin
        _create(log)
        with suppress(BrokenPipeError):  # the server has ended, which `ForkedProcess.poll` reports
            self.popen.stdin.write(json.dumps([list(arguments), str(log)]).encode() + b"\n")
            self.popen.stdin.flush()
        return ForkedProcess(self.popen)

    def close(self) -> None:
        self.popen.kill()
        self.popen.communicate()


class ForkedProcess:
    """A job of a fork server, with the interface of `Process`."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        self.server, self.started_at, self.output = server, time.monotonic(), b""

    def poll(self) -> int | None:
        """Return the exit status of the job, or of its server if that has ended; None while both run."""
        assert self.server.stdout
        self.output += self.server.stdout.read() or b""
        lines = self.output.split(b"\n")  # process ID, exit status, and what follows the last line end
        if len(lines) > 2:
            return int(lines[1])
        return self.server.poll()

    def interrupt(self) -> None:
        """Interrupt the run."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None and b"\n" in self.output:
            _signal_group(int(self.output.split(b"\n")[0]), number)


def _create(log: Path) -> None:
    """Create an empty log. Another sweep over the same root may remove its empty folder at any moment.

    Raises:
        UserError: the root cannot be written.
    """
    for attempt in range(3):
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            return log.touch()
        except FileNotFoundError:
            if attempt == 2:
                raise
        except OSError as error:
            raise UserError(f"paths.root: {log.parent} cannot be written ({error.strerror})") from None


def _start_python(
    arguments: Sequence[str], environment: Mapping[str, str], cores: set[int], stdin: int, stdout: Any
) -> subprocess.Popen[bytes]:
    """Start Python in a session of its own on these cores. stderr joins stdout if that is a file, else is dropped."""
    popen = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL if stdout == subprocess.PIPE else subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # the process has ended
            os.sched_setaffinity(popen.pid, cores)
    return popen


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
