"""Monitoring of a sweep in SLURM's queue until its last job ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.job import Job
from ersparse.sweep.job_state import JobState, JobStates, failure_reason
from ersparse.sweep.slurm.queue import QueueEntry, latest_log, list_queue, run_slurm_command

QUERY_INTERVAL = 5.0  # seconds between two queries of the queue
FAILED_AFTER = 3  # consecutive queries in which a run is neither queued nor done: shared file systems lag behind


class QueueMonitor(JobStates):
    """States of jobs that SLURM runs, read from its queue and the run folders."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(jobs)
        self.place = "in SLURM's queue"
        self.roots = {job.root for job in jobs}
        self.missed: dict[Path, int] = {}  # by run folder, consecutive queries in which it was not in the queue

    def not_queued(self, entries: Mapping[Path, QueueEntry]) -> list[Job]:
        """Return the jobs that are neither done nor in the queue."""
        return [job_state.job for job_state in self.select("waiting") if job_state.job.folder not in entries]

    def update(self, entries: Mapping[Path, QueueEntry]) -> None:
        """Update the states of all jobs that have not ended from the entries of the queue and the run folders."""
        for job_state in self.select("waiting", "running"):
            entry = entries.get(job_state.job.folder)
            if entry:
                job_state.state = "running" if entry.is_running else "waiting"
                job_state.note, job_state.log = str(entry), entry.log
                self.missed.pop(job_state.job.folder, None)
            else:
                self._update_missing(job_state)

    def _update_missing(self, job_state: JobState) -> None:
        folder = job_state.job.folder
        record = run_json.read(folder)
        if job_state.pruned and (record or {}).get("state") != "done" and not run_json.in_use(folder):
            run_json.mark_pruned(folder, job_state.pruned)
            job_state.state, job_state.reason, job_state.note = "pruned", job_state.pruned, ""
            return
        self.missed[folder] = self.missed.get(folder, 0) + 1
        if record and record.get("state") == "done":
            job_state.state, job_state.note = "done", ""
        elif self.missed[folder] >= FAILED_AFTER:
            job_state.log = latest_log(job_state.job.root, folder) or job_state.log
            job_state.state, job_state.note = "failed", ""
            job_state.reason = failure_reason(1, record, job_state.log)

    def interrupt(self, job_state: JobState) -> None:
        """Cancel a job, whose run stops at its last checkpoint. `note` begins with its ID."""
        with suppress(UserError):  # it has left the queue meanwhile
            run_slurm_command(["scancel", job_state.note.split()[0]])

    def wait(self, show: Callable[[], None]) -> int:
        """Wait until the last job ends, and return the exit status: 1 if a job failed, else 0.

        Args:
            show: called several times a second, to show the states.
        """
        last_query = 0.0
        while self.select("waiting", "running"):
            if time.monotonic() - last_query > QUERY_INTERVAL:
                last_query = time.monotonic()
                with suppress(UserError):  # SLURM does not answer for a while
                    self.update(queue_entries(self.roots))
            show()
            time.sleep(0.1)
        self.correct_failed()
        return 1 if self.select("failed") else 0


def queue_entries(roots: set[Path]) -> dict[Path, QueueEntry]:
    """Return, by run folder, the jobs in the queue for the runs below these roots.

    Raises:
        UserError: SLURM does not answer.
    """
    entries: dict[Path, QueueEntry] = {}
    for root in roots:
        entries |= list_queue(root)
    return entries
