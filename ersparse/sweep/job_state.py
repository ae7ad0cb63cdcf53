"""The jobs of a sweep and how they stand, wherever they run. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ersparse.storage import run_json
from ersparse.sweep.job import Job

if TYPE_CHECKING:
    from ersparse.sweep.local.process import Forked, Process
    from ersparse.sweep.local.slots import Slot

SWEEP = "ERSPARSE_SWEEP"  # what ersparse.runs.loggers groups the runs of a sweep by
IN_USE = "in use by another process"


@dataclass
class JobState:
    """A job and how it stands: waiting, held (by another process), running, done, failed, stopped."""

    job: Job
    state: str = "waiting"
    before: bool = False  # done before this sweep began
    reason: str = ""
    seconds: float = 0.0  # that its process took
    process: Process | Forked | None = None
    slots: Sequence[Slot] = ()
    asked: float | None = None  # when it was asked to stop
    looked: float = 0.0  # at its folder, while another process held it
    note: str = ""  # what a queue says of it
    log: Path = field(init=False)  # what it prints

    def __post_init__(self) -> None:
        self.log = self.job.log

    def skip_if_done(self) -> None:
        record = run_json.read(self.job.folder)
        if record and record.get("state") == "done" and not self.job.fresh:
            self.state, self.before = "done", True


class JobStates:
    """All jobs of a sweep."""

    where = ""  # they run, in words
    width = 1  # how many at a time

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.tasks = [JobState(job) for job in jobs]
        folders = "\n".join(job.name for job in jobs)
        self.name = f"sweep-{hashlib.sha256(folders.encode()).hexdigest()[:8]}"  # the same when it is issued again

    def of(self, *states: str) -> list[JobState]:
        return [task for task in self.tasks if task.state in states]


def reason(status: int, record: dict[str, Any] | None, log: Path) -> str:
    """Why a job failed, in one line."""
    if status < 0:
        return f"killed by signal {-status}"
    if record and record.get("state") == "failed" and record.get("error"):
        return " ".join(str(record["error"]).split())
    return last_line(log) or f"exit status {status}"


def last_line(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
