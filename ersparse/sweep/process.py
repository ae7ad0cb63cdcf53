"""One job as a process of its own, with its output in a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ersparse.keys import HERE

LAUNCH = HERE.parent / "launch.py"
COMMAND = [str(LAUNCH)] if LAUNCH.is_file() else ["-m", "ersparse", "run"]  # in a checkout, or installed


class Process:
    """A job in a session of its own: signals reach its ranks as well, and a Ctrl-C at the terminal does not."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], cores: set[int], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                [sys.executable, *COMMAND, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        self.began = time.monotonic()
        if hasattr(os, "sched_setaffinity"):
            with suppress(OSError):  # it has ended
                os.sched_setaffinity(self.popen.pid, cores)

    def poll(self) -> int | None:
        """The exit status, once it has ended; what it left behind is then gone as well."""
        status = self.popen.poll()
        if status is not None:
            self.kill()
        return status

    def interrupt(self) -> None:
        """Asks it to stop: the run keeps its last checkpoint."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, number)
