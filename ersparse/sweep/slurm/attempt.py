"""One attempt at a run, as a task of a SLURM job on its node. Imports no torch.

submitit starts it, and owns the requeue: nothing else asks SLURM for one. The run itself is a process below it, which
knows nothing of SLURM. Of the tasks of one job the first leads: it alone stops the run, hands over or gives up.
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

from ersparse.distributed.rendezvous import LOST, Rendezvous
from ersparse.storage import run_json
from ersparse.sweep.local.process import COMMAND
from ersparse.sweep.slurm.node import (
    NOTIFY,
    PAUSE,
    ending,
    environment,
    follow,
    job_is_running,
    restarts,
    started,
    stop_after_epoch,
)
from ersparse.sweep.slurm.options import NOTICE

INTERRUPTED = 130


@dataclass(frozen=True)
class Attempt:
    """What submitit carries to the node.

    Attributes:
        words: the run's command line.
        folder: of the run.
        sweep: its name, for the loggers.
        threads: for computing.
        signal_before: seconds before the time limit at which SLURM tells.
        requeues: how many there may be.
    """

    words: tuple[str, ...]
    folder: Path
    sweep: str
    threads: int
    signal_before: int
    requeues: int

    def __call__(self) -> None:
        """Ends as the run does: what SLURM notes is what run.json says."""
        requeue, told = signal.getsignal(NOTIFY), threading.Event()  # submitit's handler is called once all is at rest
        signal.signal(NOTIFY, lambda *_: told.set())
        meeting = meeting_of(os.environ)
        if meeting and meeting.rank:
            return follow(meeting, environment(self.threads, self.sweep))
        Leader(self, meeting, told, requeue).lead()

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: what runs once the job has been put back."""
        return DelayedSubmission(self)


def meeting_of(outer: Mapping[str, str]) -> Rendezvous | None:
    """Where the tasks of this attempt meet, if there are several."""
    size = int(outer.get("SLURM_NTASKS", 1))
    if size == 1:
        return None
    job = outer.get("SLURM_ARRAY_TASK_ID", "0")
    folder = Path(outer["SUBMITIT_FOLDER"]) / f"ranks-{outer['SLURM_JOB_ID']}-{job}-{restarts(outer)}"
    folder.mkdir(exist_ok=True)
    rank, local, node = (int(outer[f"SLURM_{name}"]) for name in ("PROCID", "LOCALID", "NODEID"))
    return Rendezvous(folder, rank, size, local, node)


class Leader:
    """The first task of an attempt, and its only one where the run has one rank."""

    def __init__(self, attempt: Attempt, meeting: Rendezvous | None, told: threading.Event, requeue: Any) -> None:
        self.attempt, self.meeting, self.told, self.requeue = attempt, meeting, told, requeue

    def lead(self) -> None:
        """Follows the run to its end, or stops it when SLURM says so."""
        status, reason = self._status()
        if status == 0:
            if self.meeting:
                self.meeting.end()
        elif reason:
            self._hand_over(reason)
        else:
            self._give_up(status)

    def _status(self) -> tuple[int, str]:
        """Exit status of the run, and why it has to be tried again; "" where it has not."""
        process, fallen = self._start(), None
        while process.poll() is None and not self.told.is_set() and not fallen:
            time.sleep(PAUSE)
            fallen = self.meeting.fallen() if self.meeting else None
        if self.told.is_set():
            return self._stopped_for_slurm(process)
        if fallen:
            process.kill()
        status = process.wait()
        if status and self.meeting:
            fallen = fallen or self._look_for_the_fallen(self.meeting)
        return status, self._why(status, fallen)

    def _start(self) -> subprocess.Popen[bytes]:
        words = [*self.attempt.words, *(["fresh=false"] if restarts(os.environ) else []), "hydra.mode=RUN"]
        around = environment(self.attempt.threads, self.attempt.sweep)
        return started([*COMMAND, *words], around | (self.meeting.environment() if self.meeting else {}))

    def _stopped_for_slurm(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """After the epoch, if there is time."""
        print("SLURM wants the job to stop", flush=True)
        reason, left = ending(self.attempt.signal_before)
        stop_after_epoch(process, self.attempt.folder, left - NOTICE)
        return process.wait(), reason

    def _look_for_the_fallen(self, meeting: Rendezvous) -> tuple[int, int | None] | None:
        """Another rank's end is what this one's may follow from."""
        until = time.monotonic() + LOST + 5
        while not (fallen := meeting.fallen()) and time.monotonic() < until:
            time.sleep(PAUSE)
        return fallen

    def _why(self, status: int, fallen: tuple[int, int | None] | None) -> str:
        """Why it has to be tried again: something happened to it, and nobody cancels the job or puts it back."""
        happened = self._happened(status, fallen)
        return happened if happened and job_is_running() else ""

    def _happened(self, status: int, fallen: tuple[int, int | None] | None) -> str:
        size = self.meeting.size if self.meeting else 1
        if fallen and fallen[1] is None:
            return f"rank {fallen[0]} of {size} is lost, with its node perhaps"
        if fallen and fallen[1] is not None and fallen[1] < 0:
            return f"rank {fallen[0]} of {size} died ({signal.Signals(-fallen[1]).name})"
        if status < 0 and not fallen:
            return f"died ({signal.Signals(-status).name})"
        stopped = status == INTERRUPTED or (
            status and (run_json.read(self.attempt.folder) or {}).get("state") == "preempted"
        )
        return "stopped from outside" if stopped else ""

    def _hand_over(self, reason: str) -> None:
        """Has the job put back into the queue, unless that has happened often enough."""
        count, most = restarts(os.environ), self.attempt.requeues
        print(f"{reason}; requeued {count} times before", flush=True)
        if count >= most:
            line = f"{reason}, requeued {count} times before (hydra.launcher.requeues={most})"
            run_json.mark_state(self.attempt.folder, "failed", line)
            self._give_up(1)
        run_json.mark_state(self.attempt.folder, "preempted", reason)
        try:
            self.requeue(NOTIFY, None)
        except subprocess.SubprocessError as error:
            if job_is_running():  # else SLURM has put it back meanwhile
                run_json.mark_state(self.attempt.folder, "failed", f"{reason}, and SLURM does not requeue it: {error}")
            self._give_up(1)

    def _give_up(self, status: int) -> None:
        if self.meeting:
            self.meeting.end()
        sys.exit(status if status > 0 else 1)
