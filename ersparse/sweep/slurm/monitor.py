"""A sweep in SLURM's queue, followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.job import Job
from ersparse.sweep.job_state import JobState, JobStates, reason
from ersparse.sweep.slurm.queue import QueueEntry, latest_log, queued

EVERY = 5.0  # seconds between two looks at the queue
GONE = 3  # looks at which a run is neither in the queue nor done before it counts as failed: file systems lag behind


class Queue(JobStates):
    """Jobs that others run: this process only looks."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(jobs)
        self.where = "in SLURM's queue"
        self.roots = {job.root for job in jobs}
        self.gone: dict[Path, int] = {}  # by run folder, looks at which it was not in the queue

    def not_in(self, places: Mapping[Path, QueueEntry]) -> list[Job]:
        """What is to be done, and no job is there for."""
        return [task.job for task in self.of("waiting") if task.job.folder not in places]

    def look(self, places: Mapping[Path, QueueEntry]) -> None:
        """Takes over what the queue and the run folders say."""
        for task in self.of("waiting", "running"):
            place = places.get(task.job.folder)
            if place:
                task.state, task.note, task.log = ("running" if place.runs else "waiting"), str(place), place.log
                self.gone.pop(task.job.folder, None)
            else:
                self._ended(task)

    def _ended(self, task: JobState) -> None:
        record = run_json.read(task.job.folder)
        count = self.gone[task.job.folder] = self.gone.get(task.job.folder, 0) + 1
        if record and record.get("state") == "done":
            task.state, task.note = "done", ""
        elif count >= GONE:
            task.log = latest_log(task.job.root, task.job.folder) or task.log
            task.state, task.note = "failed", ""
            task.reason = reason(1, record, task.log)

    def wait(self, show: Callable[[], None]) -> int:
        """To the end of the last job; 1 where one failed, 0 otherwise."""
        looked = 0.0
        while self.of("waiting", "running"):
            if time.monotonic() - looked > EVERY:
                looked = time.monotonic()
                with suppress(UserError):  # SLURM is away for a while
                    self.look(places_of(self.roots))
            show()
            time.sleep(0.1)
        return 1 if self.of("failed") else 0


def places_of(roots: set[Path]) -> dict[Path, QueueEntry]:
    """The jobs in the queue for the runs below these folders."""
    found: dict[Path, QueueEntry] = {}
    for root in roots:
        found |= queued(root)
    return found
