"""The jobs of a sweep on the slots of a machine, to the end of the last of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ersparse.storage import run_json
from ersparse.sweep.job import Job
from ersparse.sweep.job_state import IN_USE, SWEEP, JobState, JobStates, last_line, reason
from ersparse.sweep.local.process import Forked, Process, Worker
from ersparse.sweep.local.slots import Slot, cores_of, environment, room_for

PAUSE = 0.05  # seconds between two looks at the jobs
HELD_PAUSE = 1.0  # and at a folder that another process holds
GRACE = 30.0  # for a job that was asked to stop
INTERRUPTED = 130


class Pool(JobStates):
    """Starts jobs in their order as slots come free."""

    def __init__(
        self, jobs: Sequence[Job], slots: Sequence[Slot], time_limit: float | None, extra: Sequence[str] = ()
    ) -> None:
        """`extra` are words for every job."""
        super().__init__(jobs)
        self.width = len(slots)
        self.where = f"on {self.width} slot{'s' * (self.width != 1)}"
        self.slots, self.free, self.time_limit, self.extra = slots, list(slots), time_limit, list(extra)
        self.workers: dict[Slot, Worker] = {}  # warm, for jobs that only draw

    def run(self, show: Callable[[], None]) -> int:
        """Calls `show` again and again; returns 0, 1 where a job failed, 130 where a Ctrl-C stopped the sweep."""
        for task in self.tasks:
            task.skip_if_done()
        try:
            while self.of("waiting", "held", "running"):
                self._turn()
                show()
                time.sleep(PAUSE)
        except KeyboardInterrupt:
            self._stop_all(show)
            return INTERRUPTED
        finally:
            for worker in self.workers.values():
                worker.close()
            for folder in {task.job.log.parent for task in self.tasks}:
                with suppress(OSError):  # there are logs in it, or there never was one
                    folder.rmdir()
        return 1 if self.of("failed") else 0

    def _turn(self) -> None:
        for task in self.of("running"):
            self._look_at(task)
        for task in self.of("held"):
            self._look_at_folder(task)
        for task in self.of("waiting"):
            room = room_for(task.job.devices, self.free, self.slots)
            if room is None:
                break  # in their order, so that a job for several devices is not overtaken for ever
            self._start(task, room)

    def _look_at_folder(self, task: JobState) -> None:
        """A held folder is done, or free, or still held."""
        if time.monotonic() - task.looked < HELD_PAUSE:
            return
        task.looked = time.monotonic()
        if not run_json.in_use(task.job.folder):
            task.state = "waiting"
            task.skip_if_done()
            task.job.log.unlink(missing_ok=True)  # where it says that the folder is in use

    def _start(self, task: JobState, room: list[Slot]) -> None:
        job = task.job
        if run_json.in_use(job.folder):
            task.state = "held"
            return
        for slot in room:
            self.free.remove(slot)
        task.process = self._process(job, room)
        task.state, task.slots = "running", room

    def _process(self, job: Job, room: Sequence[Slot]) -> Process | Forked:
        words = [*job.words, *self.extra, "hydra.mode=RUN"]
        surroundings = environment(os.environ, room, job.devices) | {SWEEP: self.name}, cores_of(room)
        if job.epochs:
            return Process(words, *surroundings, job.log)
        worker = self.workers.get(room[0])
        if worker is None or worker.popen.poll() is not None:
            worker = self.workers[room[0]] = Worker(*surroundings)
        return worker.start(words, job.log)

    def _look_at(self, task: JobState) -> None:
        assert task.process
        status = task.process.poll()
        if status is None:
            self._mind_the_time(task, task.process)
            return
        self.free += task.slots
        task.seconds = time.monotonic() - task.process.began
        if status == 0:
            task.state = "done"
            task.job.log.unlink(missing_ok=True)
        elif status == 2 and IN_USE in last_line(task.job.log):
            task.state = "held"
        else:
            late = f"stopped at the time limit of {self.time_limit:g} s" if task.asked is not None else ""
            task.state = "failed"
            task.reason = late or reason(status, run_json.read(task.job.folder), task.job.log)

    def _mind_the_time(self, task: JobState, process: Process | Forked) -> None:
        now = time.monotonic()
        if task.asked is None and self.time_limit and now - process.began > self.time_limit:
            task.asked = now
            process.interrupt()
        elif task.asked is not None and now - task.asked > GRACE:
            process.kill()

    def _stop_all(self, show: Callable[[], None]) -> None:
        """Every job stops at its last checkpoint; a second Ctrl-C kills them."""
        running = [(task, task.process) for task in self.of("running") if task.process]
        began = time.monotonic()
        with suppress(KeyboardInterrupt):
            for _, process in running:
                process.interrupt()
            while any(process.poll() is None for _, process in running) and time.monotonic() - began < GRACE:
                show()
                time.sleep(PAUSE)
        for task, process in running:
            process.kill()
            task.state = "stopped"
            task.job.log.unlink(missing_ok=True)
