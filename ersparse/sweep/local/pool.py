"""The pool of a local sweep: runs jobs on the slots of this machine until the last of them ends."""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.job import Job
from ersparse.sweep.job_state import IN_USE, SWEEP, JobProcess, JobState, JobStates, failure_reason, last_line
from ersparse.sweep.local.process import ForkServer, Process
from ersparse.sweep.local.slots import Slot, allocate, cores_of, job_environment

POLL_INTERVAL = 0.05  # seconds
HELD_POLL_INTERVAL = 1.0  # seconds between two checks of a folder that another process holds
GRACE_PERIOD = 30.0  # seconds for an interrupted job to end before it is killed
INTERRUPTED = 130  # exit status


class Pool(JobStates):
    """Starts jobs in their order as slots become free."""

    def __init__(
        self, jobs: Sequence[Job], slots: Sequence[Slot], time_limit: float | None, arguments: Sequence[str] = ()
    ) -> None:
        """Create the pool; `run` starts it.

        Args:
            jobs: the jobs, in the order in which they start.
            slots: the slots of this machine.
            time_limit: seconds after which a job is interrupted; None is no limit.
            arguments: command-line arguments for every job.
        """
        super().__init__(jobs)
        self.parallel = len(slots)
        self.place = f"on {self.parallel} slot{'s' * (self.parallel != 1)}"
        self.slots, self.free, self.time_limit, self.arguments = slots, list(slots), time_limit, list(arguments)
        self.token = secrets.token_hex(4)
        self.variables: dict[str, str] = {}  # further environment variables of jobs
        self.fork_servers: dict[Slot, ForkServer] = {}  # for jobs that only draw

    def run(self, show: Callable[[], None]) -> int:
        """Run the jobs that are not done.

        Args:
            show: called several times a second, to show the states.

        Returns:
            The exit status: 0, 1 if a job failed, 130 if Ctrl-C interrupted the sweep.
        """
        self.skip_done()
        try:
            while self.select("waiting", "held", "running"):
                self._update()
                show()
                time.sleep(POLL_INTERVAL)
        except KeyboardInterrupt:
            self._stop_all(show)
            return INTERRUPTED
        except UserError:  # of a search, about what a run has not recorded
            self._stop_all(lambda: None)
            raise
        finally:
            self._clean_up()
        self.correct_failed()
        return 1 if self.select("failed") else 0

    def _clean_up(self) -> None:
        for server in self.fork_servers.values():
            server.close()
        for folder in {job_state.job.log.parent for job_state in self.states}:
            with suppress(OSError):  # it holds logs of failed jobs, or does not exist
                folder.rmdir()

    def _update(self) -> None:
        for job_state in self.select("running"):
            self._update_running(job_state)
        for job_state in self.select("held"):
            self._update_held(job_state)
        for job_state in self.select("waiting"):
            slots = allocate(job_state.job.devices, self.free, self.slots)
            if slots is None:
                break  # start in order, or jobs on one device would overtake a job on several for ever
            self._start(job_state, slots)

    def _update_held(self, job_state: JobState) -> None:
        """Put a job back in line once no other process holds its folder, unless that process has finished the run."""
        if time.monotonic() - job_state.checked_at < HELD_POLL_INTERVAL:
            return
        job_state.checked_at = time.monotonic()
        if not run_json.in_use(job_state.job.folder):
            job_state.state = "waiting"
            job_state.skip_if_done()

    def _start(self, job_state: JobState, slots: list[Slot]) -> None:
        job = job_state.job
        if run_json.in_use(job.folder):
            job_state.state = "held"
            return
        for slot in slots:
            self.free.remove(slot)
        job_state.log = self._own_log(job)
        job_state.process = self._start_process(job, slots, job_state.log)
        job_state.state, job_state.slots = "running", slots

    def _own_log(self, job: Job) -> Path:
        """Return the log of a running job, which differs from that of another sweep over the same root."""
        return job.log.with_name(f"{job.log.stem}.{self.token}.log")

    def _start_process(self, job: Job, slots: Sequence[Slot], log: Path) -> JobProcess:
        arguments = [*job.overrides, *self.arguments, "hydra.mode=RUN"]
        environment = job_environment(os.environ, slots, job.devices) | self.variables | {SWEEP: self.name}
        if job.epochs:
            return Process(arguments, environment, cores_of(slots), log)
        server = self.fork_servers.get(slots[0])
        if server is None or server.popen.poll() is not None:
            server = self.fork_servers[slots[0]] = ForkServer(environment, cores_of(slots))
        return server.start(arguments, log)

    def _update_running(self, job_state: JobState) -> None:
        assert job_state.process
        status = job_state.process.poll()
        if status is None:
            self._enforce_time_limit(job_state, job_state.process)
            return
        self.free += job_state.slots
        job_state.seconds = time.monotonic() - job_state.process.started_at
        if status == 0:
            job_state.state = "done"
        elif job_state.pruned:
            job_state.state, job_state.reason = "pruned", job_state.pruned
            run_json.mark_pruned(job_state.job.folder, job_state.pruned)
        elif status == 2 and last_line(job_state.log).endswith(IN_USE):
            job_state.state = "held"
        else:
            job_state.state = "failed"
            job_state.reason = self._reason(job_state, status)
            self.correct_failed()
        self._keep_log_of_failed(job_state)

    def _keep_log_of_failed(self, job_state: JobState) -> None:
        """Move the log of a failed job to its place, and remove that of any other."""
        own, job_state.log = job_state.log, job_state.job.log
        with suppress(FileNotFoundError):
            own.replace(job_state.log) if job_state.state == "failed" else own.unlink()
        if job_state.state == "done":
            for log in (job_state.log, *job_state.log.parent.glob(f"{glob.escape(job_state.log.stem)}.*.log")):
                log.unlink(missing_ok=True)  # of earlier attempts, and of sweeps that were killed

    def _reason(self, job_state: JobState, status: int) -> str:
        if job_state.interrupted_at is not None:
            return f"stopped at the time limit of {self.time_limit:g} s"
        return failure_reason(status, run_json.read(job_state.job.folder), job_state.log)

    def _enforce_time_limit(self, job_state: JobState, process: JobProcess) -> None:
        now = time.monotonic()
        if job_state.interrupted_at is None and self.time_limit and now - process.started_at > self.time_limit:
            self.interrupt(job_state)
        elif job_state.interrupted_at is not None and now - job_state.interrupted_at > GRACE_PERIOD:
            process.kill()

    def interrupt(self, job_state: JobState) -> None:
        assert job_state.process
        job_state.interrupted_at = time.monotonic()
        job_state.process.interrupt()

    def _stop_all(self, show: Callable[[], None]) -> None:
        """Interrupt every job, which keeps its last checkpoint; kill it on a second Ctrl-C or after `GRACE_PERIOD`."""
        running = [(job_state, job_state.process) for job_state in self.select("running") if job_state.process]
        deadline = time.monotonic() + GRACE_PERIOD
        with suppress(KeyboardInterrupt):
            for _, process in running:
                process.interrupt()
            while any(process.poll() is None for _, process in running) and time.monotonic() < deadline:
                show()
                time.sleep(POLL_INTERVAL)
        for job_state, process in running:
            process.kill()
            job_state.state = "stopped"
            job_state.log.unlink(missing_ok=True)
