"""What the tasks of a job do on their nodes: start processes, stop them, and follow the first task."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from ersparse.distributed.parent_death import PARENT
from ersparse.distributed.rendezvous import BEAT, Rendezvous
from ersparse.storage.provenance import SLURM
from ersparse.sweep.job_state import SWEEP
from ersparse.sweep.local.slots import without_ranks

NOTIFY = signal.SIGUSR2  # what SLURM sends before it stops a job
RANK = "from ersparse.runs.rank_main import main; main()"
PAUSE = 0.2  # seconds between two looks
EARLY = 90.0  # seconds: SLURM may tell a minute before it was asked to
GRACE = 20.0  # seconds for a process that was asked to stop


def restarts(outer: Mapping[str, str] | None = None) -> int:
    """How often the job was put back, by whomever."""
    return int((os.environ if outer is None else outer).get("SLURM_RESTART_COUNT", 0))


def environment(threads: int, sweep: str) -> dict[str, str]:
    """Of a process of ours on this node."""
    job = {"job": job_name(), "node": os.environ.get("SLURMD_NODENAME"), "restarts": restarts()}
    ours = {"OMP_NUM_THREADS": str(threads), SWEEP: sweep, PARENT: str(os.getpid()), SLURM: json.dumps(job)}
    return without_ranks(os.environ) | ours


def job_name() -> str:
    """12, or 12_3 in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def shown() -> dict[str, str]:
    """What SLURM says of this job; nothing where it does not answer."""
    asked = ["scontrol", "show", "job", "--oneliner", job_name()]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(word.split("=", 1) for word in answer.split() if "=" in word)


def job_is_running() -> bool:
    """Whether SLURM neither cancels this job nor has put it back already; it may be running again by now."""
    job = shown()
    return job.get("JobState") == "RUNNING" and job.get("Restarts") == str(restarts())


def ending(notice: int) -> tuple[str, float]:
    """Why SLURM wants this job to stop, and how many seconds it may go on.

    Args:
        notice: seconds before its time limit at which it was to be told.
    """
    job = shown()
    try:
        left = (datetime.fromisoformat(job["EndTime"]) - datetime.now()).total_seconds()
    except (KeyError, ValueError):
        left = math.inf
    if job.get("PreemptTime", "None") != "None":
        return "preempted", left
    if left <= notice + EARLY:
        return "stopped at its time limit", left
    return "preempted", 0.0  # by a signal alone: how soon it ends is not said


def started(arguments: list[str], around: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A Python process that is deaf to SLURM's notice, which every process of a job gets."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=dict(around),
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(NOTIFY, signal.SIG_IGN),
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """At its last checkpoint."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def stop_after_epoch(process: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
    """At its next checkpoint, if there is one within so many seconds."""
    before, until = _checkpoints(folder), time.monotonic() + seconds
    while process.poll() is None and _checkpoints(folder) <= before and time.monotonic() < until:
        time.sleep(PAUSE)
    stop(process)


def _checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("*.ckpt")}


def follow(meeting: Rendezvous, around: Mapping[str, str]) -> None:
    """A task that is not the first: trains as that decides, and never ends by itself.

    It waits for the end of the meeting, or to be killed: a task that ends first would have SLURM end the others.
    """
    process: subprocess.Popen[bytes] | None = None
    status, beat = None, 0.0
    while not meeting.is_over():
        if status is None and time.monotonic() - beat > BEAT:
            meeting.report(None)
            beat = time.monotonic()
        if process is None and (decided := meeting.decided()):
            told = {
                **decided,
                "rank": meeting.rank,
                "local": meeting.local,
                "node": meeting.node,
                "parent": os.getpid(),
            }
            process = started(["-c", RANK], {**around, "ERSPARSE_RANK": json.dumps(told)})
        if process and status is None and (status := process.poll()) is not None:
            meeting.report(status)
        time.sleep(PAUSE)
    if process and process.poll() is None:
        stop(process)
