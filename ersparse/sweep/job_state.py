"""The states of the jobs of a sweep, for every launcher. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ersparse.storage import run_json
from ersparse.sweep.job import Job

SWEEP = "ERSPARSE_SWEEP"  # environment variable with the sweep's name, by which `ersparse.runs.loggers` groups runs
IN_USE = "wait for it, or stop it"  # end of a run's last line of output if its folder is locked, here or elsewhere


class JobProcess(Protocol):
    """A process that works on a job."""

    @property
    def started_at(self) -> float: ...

    def poll(self) -> int | None: ...

    def interrupt(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class JobState:
    """A job and its state.

    Attributes:
        job: the job.
        state: waiting, held (another process holds the lock of the run folder), running, done, failed, pruned (stopped
            by a search), or stopped (by an interrupt of the sweep).
        done_before: whether the run was done before this sweep began.
        reason: why the job failed.
        seconds: how long its process ran.
        process: its process, on this machine.
        slots: the slots that it occupies.
        interrupted_at: when it was interrupted because of the time limit.
        checked_at: when the folder was last checked, while another process held it.
        note: its ID and state in SLURM's queue; of a trial that is done, its objectives.
        pruned: why a search stops it, or "".
        log: the file with its output.
    """

    job: Job
    state: str = "waiting"
    done_before: bool = False
    reason: str = ""
    seconds: float = 0.0
    process: JobProcess | None = None
    slots: Sequence[Any] = ()
    interrupted_at: float | None = None
    checked_at: float = 0.0
    note: str = ""
    pruned: str = ""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.job.log

    def skip_if_done(self) -> None:
        """Mark the job as done if its run is done and it does not start over."""
        if is_done(self.job):
            self.state, self.done_before = "done", True


class JobStates:
    """The states of all jobs of a sweep.

    Attributes:
        states: the state of each job, in their order.
        name: name of the sweep, which is the same each time that the command is issued.
        place: where the jobs run, for messages.
        parallel: number of jobs at a time.
    """

    place = ""
    parallel = 1

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.states = [JobState(job) for job in jobs]
        folders = "\n".join(job.name for job in jobs)
        self.name = f"sweep-{hashlib.sha256(folders.encode()).hexdigest()[:8]}"

    def add(self, job: Job) -> JobState:
        """Add a job while others run, and return its state."""
        job_state = JobState(job)
        job_state.skip_if_done()
        self.states.append(job_state)
        return job_state

    def prune(self, job_state: JobState, reason: str) -> None:
        """Stop a running job at its last checkpoint, because its search needs no more of it."""
        job_state.pruned = reason
        self.interrupt(job_state)

    def interrupt(self, job_state: JobState) -> None:
        """Ask a running job to stop at its last checkpoint."""
        raise NotImplementedError

    def select(self, *names: str) -> list[JobState]:
        """Return the jobs whose state is one of `names`."""
        return [job_state for job_state in self.states if job_state.state in names]

    def correct_failed(self) -> None:
        """Mark failed jobs as done if their runs are: another sweep over the same root has finished them meanwhile."""
        for job_state in self.select("failed"):
            if is_done(job_state.job):
                job_state.state, job_state.reason = "done", ""

    def skip_done(self) -> None:
        """Mark the jobs of which the runs are done."""
        for job_state in self.states:
            job_state.skip_if_done()


def is_done(job: Job) -> bool:
    """Return whether the run of a job is done, and the job does not start it over."""
    record = run_json.read(job.folder)
    return record is not None and record.get("state") == "done" and not job.fresh


def failure_reason(status: int, record: dict[str, Any] | None, log: Path) -> str:
    """Return in one line why a job failed.

    Args:
        status: its exit status; minus the number of the signal that killed it.
        record: its run.json, if there is one.
        log: the file with its output.
    """
    if status < 0:
        return f"killed by signal {-status}"
    if record and record.get("state") == "failed" and record.get("error"):
        return " ".join(str(record["error"]).split())
    return last_line(log) or f"exit status {status}"


def last_line(log: Path) -> str:
    """Return the last line of a file that is not blank, or "" if there is none."""
    try:
        lines = log.read_text("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
