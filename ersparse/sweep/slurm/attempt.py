"""One attempt at a run: what each task of a SLURM job executes on its node. Imports no torch.

submitit starts it and requeues the job; nothing else asks SLURM for a requeue. The run itself is a child process that
knows nothing of SLURM. The task of rank 0 leads: it alone stops the run, requeues the job, or ends it.

Jobs in a queue hold a pickled `Attempt`: its module, its name and its fields must not change.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from ersparse.distributed.failed_rank import FailedRank, signal_name
from ersparse.distributed.rendezvous import HEARTBEAT_TIMEOUT, Rendezvous
from ersparse.storage import run_json
from ersparse.sweep.local.process import COMMAND
from ersparse.sweep.slurm.node import (
    NOTIFY,
    POLL_INTERVAL,
    follow_rank_0,
    is_job_running,
    requeue_count,
    run_environment,
    start_python,
    stop_after_epoch,
    stop_reason,
)
from ersparse.sweep.slurm.options import STOP_RESERVE

INTERRUPTED = 130  # exit status of an interrupted run


@dataclass(frozen=True)
class Attempt:
    """The callable that submitit pickles, and calls in every task of the job.

    Attributes:
        words: command-line arguments of the run.
        folder: the run folder.
        sweep: name of the sweep, by which loggers group its runs.
        threads: number of compute threads.
        signal_before: seconds before the time limit at which SLURM signals the job.
        requeues: how often the job may be requeued.
    """

    words: tuple[str, ...]
    folder: Path
    sweep: str
    threads: int
    signal_before: int
    requeues: int

    def __call__(self) -> None:
        """Run to the end, and exit with a status that agrees with the state in run.json."""
        requeue, notified = signal.getsignal(NOTIFY), threading.Event()
        signal.signal(NOTIFY, lambda *_: notified.set())  # submitit's handler requeues at once: the run must stop first
        rendezvous = rendezvous_of(os.environ)
        if rendezvous and rendezvous.rank:
            return follow_rank_0(rendezvous, run_environment(self.threads, self.sweep))
        Leader(self, rendezvous, notified, requeue).lead()

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit runs after a requeue: the same attempt."""
        return DelayedSubmission(self)


def rendezvous_of(environment: Mapping[str, str]) -> Rendezvous | None:
    """Return the rendezvous of this attempt's tasks, or None if the job has a single task."""
    size = int(environment.get("SLURM_NTASKS", 1))
    if size == 1:
        return None
    index = environment.get("SLURM_ARRAY_TASK_ID", "0")
    name = f"ranks-{environment['SLURM_JOB_ID']}-{index}-{requeue_count(environment)}"
    folder = Path(environment["SUBMITIT_FOLDER"]) / name
    folder.mkdir(exist_ok=True)
    rank, local, node = (int(environment[f"SLURM_{name}"]) for name in ("PROCID", "LOCALID", "NODEID"))
    return Rendezvous(folder, rank, size, local, node)


class Leader:
    """The task of rank 0, which is the only task of a run on one device."""

    def __init__(
        self, attempt: Attempt, rendezvous: Rendezvous | None, notified: threading.Event, requeue: Any
    ) -> None:
        """Store what the attempt needs.

        Args:
            attempt: the attempt that this task leads.
            rendezvous: where the other tasks are met; None if there are none.
            notified: set once SLURM has sent `NOTIFY`.
            requeue: submitit's signal handler, which requeues the job.
        """
        self.attempt, self.rendezvous, self.notified, self.requeue = attempt, rendezvous, notified, requeue

    def lead(self) -> None:
        """Run to the end, or stop the run when SLURM asks for it; then finish, requeue or fail."""
        status, reason = self._run()
        if status == 0:
            if self.rendezvous:
                self.rendezvous.close()
        elif reason:
            self._requeue(reason)
        else:
            self._exit(status)

    def _run(self) -> tuple[int, str]:
        """Return the exit status of the run, and why the job has to be requeued ("" if it has not)."""
        process, failed = self._start(), None
        while process.poll() is None and not self.notified.is_set() and not failed:
            time.sleep(POLL_INTERVAL)
            failed = self.rendezvous.failed_rank() if self.rendezvous else None
        if self.notified.is_set():
            return self._stop_for_slurm(process)
        if failed:
            process.kill()
        status = process.wait()
        if status and self.rendezvous:
            failed = failed or self._wait_for_failed_rank(self.rendezvous)
        return status, self._requeue_reason(status, failed)

    def _start(self) -> subprocess.Popen[bytes]:
        resume = ["fresh=false"] if requeue_count(os.environ) else []
        arguments = [*COMMAND, *self.attempt.words, *resume, "hydra.mode=RUN"]
        environment = run_environment(self.attempt.threads, self.attempt.sweep)
        return start_python(arguments, environment | (self.rendezvous.environment() if self.rendezvous else {}))

    def _stop_for_slurm(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Stop the run after its current epoch if there is time, else at its last checkpoint."""
        print("SLURM asks the job to stop", flush=True)
        reason, seconds_left = stop_reason(self.attempt.signal_before)
        stop_after_epoch(process, self.attempt.folder, seconds_left - STOP_RESERVE)
        return process.wait(), reason

    def _wait_for_failed_rank(self, rendezvous: Rendezvous) -> FailedRank | None:
        """Look for another failed rank as the cause of rank 0's failure, until a lost rank would have been noticed."""
        deadline = time.monotonic() + HEARTBEAT_TIMEOUT + 5
        while not (failed := rendezvous.failed_rank()) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL)
        return failed

    def _requeue_reason(self, status: int, failed: FailedRank | None) -> str:
        """Return why the job has to be requeued; "" if the run failed by itself, or SLURM cancels or requeues it."""
        reason = self._external_cause(status, failed)
        return reason if reason and is_job_running() else ""

    def _external_cause(self, status: int, failed: FailedRank | None) -> str:
        """Return what stopped the run from outside; "" if it failed by itself."""
        if failed and failed.was_killed:
            return failed.describe(self.rendezvous.size if self.rendezvous else 1)
        if status < 0 and not failed:
            return f"died ({signal_name(status)})"
        stopped = status == INTERRUPTED or (
            status and (run_json.read(self.attempt.folder) or {}).get("state") == "preempted"
        )
        return "stopped from outside" if stopped else ""

    def _requeue(self, reason: str) -> None:
        """Requeue the job, unless it has been requeued as often as allowed."""
        count, allowed = requeue_count(os.environ), self.attempt.requeues
        print(f"{reason}; requeued {count} times before", flush=True)
        if count >= allowed:
            message = f"{reason}, requeued {count} times before (hydra.launcher.requeues={allowed})"
            run_json.mark_state(self.attempt.folder, "failed", message)
            self._exit(1)
        run_json.mark_state(self.attempt.folder, "preempted", reason)
        try:
            self.requeue(NOTIFY, None)
        except subprocess.SubprocessError as error:
            if is_job_running():  # otherwise SLURM has requeued the job in the meantime
                run_json.mark_state(self.attempt.folder, "failed", f"{reason}, and SLURM does not requeue it: {error}")
            self._exit(1)

    def _exit(self, status: int) -> None:
        if self.rendezvous:
            self.rendezvous.close()
        sys.exit(status if status > 0 else 1)
