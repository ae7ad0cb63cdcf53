"""Helpers of the tasks of a SLURM job on their nodes: child processes, SLURM's view of the job, and ranks above 0."""

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
from typing import Any

from ersparse.distributed.other_launchers import without_rank_variables
from ersparse.distributed.parent_death import PARENT
from ersparse.distributed.rendezvous import HEARTBEAT_INTERVAL, Rendezvous
from ersparse.storage.checkpoint_request import request_checkpoint
from ersparse.storage.provenance import SLURM
from ersparse.sweep.job_state import SWEEP

NOTIFY = signal.SIGUSR2  # the signal that SLURM sends before it stops a job
RANK = "from ersparse.runs.rank_main import main; main()"
POLL_INTERVAL = 0.2  # seconds
SIGNAL_TOLERANCE = 90.0  # seconds: SLURM may signal up to a minute earlier than requested
GRACE_PERIOD = 20.0  # seconds for an interrupted process to end


def requeue_count(environment: Mapping[str, str] | None = None) -> int:
    """Return how often the job was requeued, by submitit, SLURM or an administrator."""
    return int((os.environ if environment is None else environment).get("SLURM_RESTART_COUNT", 0))


def run_environment(threads: int, sweep: str) -> dict[str, str]:
    """Return the environment of a training process on this node.

    Args:
        threads: number of compute threads.
        sweep: name of the sweep.
    """
    job = {"job": job_id(), "node": os.environ.get("SLURMD_NODENAME"), "restarts": requeue_count()}
    own = {"OMP_NUM_THREADS": str(threads), SWEEP: sweep, PARENT: str(os.getpid()), SLURM: json.dumps(job)}
    return without_rank_variables(os.environ) | own


def job_id() -> str:
    """Return the ID of this job: "12", or "12_3" in an array."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def job_record() -> dict[str, str]:
    """Return the fields that `scontrol show job` prints for this job; empty if SLURM does not answer."""
    command = ["scontrol", "show", "job", "--oneliner", job_id()]
    try:
        output = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(field.split("=", 1) for field in output.split() if "=" in field)


def is_job_running() -> bool:
    """Return whether this attempt is still SLURM's current one: neither cancelled nor requeued in the meantime."""
    job = job_record()
    return job.get("JobState") == "RUNNING" and job.get("Restarts") == str(requeue_count())


def stop_reason(signal_before: int) -> tuple[str, float]:
    """Return why SLURM wants this job to stop, and how many seconds it may go on.

    Args:
        signal_before: seconds before the time limit at which SLURM was asked to signal the job.
    """
    job = job_record()
    try:
        seconds_left = (datetime.fromisoformat(job["EndTime"]) - datetime.now()).total_seconds()
    except (KeyError, ValueError):
        seconds_left = math.inf
    if job.get("PreemptTime", "None") != "None":
        return "preempted", seconds_left
    if seconds_left <= signal_before + SIGNAL_TOLERANCE:
        return "stopped at its time limit", seconds_left
    return "preempted", 0.0  # SLURM has sent the signal without saying when it ends the job


def start_python(arguments: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a Python process that ignores `NOTIFY`, which SLURM sends to every process of a job."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(NOTIFY, signal.SIG_IGN),
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a run, which keeps its last checkpoint; kill it if it does not end within `GRACE_PERIOD`."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_PERIOD)
    except subprocess.TimeoutExpired:
        process.kill()


def stop_after_epoch(process: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
    """Stop a run once it has written its next checkpoint, or after `seconds`, whichever is first."""
    before, deadline = _checkpoints(folder), time.monotonic() + seconds
    request_checkpoint(folder)  # which it may not write after every epoch
    while process.poll() is None and _checkpoints(folder) <= before and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    stop(process)


def _checkpoints(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("*.ckpt")}


def follow_rank_0(rendezvous: Rendezvous, environment: Mapping[str, str]) -> None:
    """Run a rank above 0: train with the settings that rank 0 announces.

    The task waits until rank 0 closes the rendezvous, even after its training has ended: with --kill-on-bad-exit a task
    that ends with an error would end the others before rank 0 has recorded the failure.
    """
    process: subprocess.Popen[bytes] | None = None
    status, last_heartbeat = None, 0.0
    while not rendezvous.is_closed():
        if status is None and time.monotonic() - last_heartbeat > HEARTBEAT_INTERVAL:
            rendezvous.send_heartbeat()
            last_heartbeat = time.monotonic()
        if process is None and (settings := rendezvous.announced_settings()):
            process = _start_rank(rendezvous, settings, environment)
        if process and status is None and (status := process.poll()) is not None:
            rendezvous.report_exit(status)
        time.sleep(POLL_INTERVAL)
    if process and process.poll() is None:
        stop(process)


def _start_rank(
    rendezvous: Rendezvous, settings: Mapping[str, Any], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    own = {"rank": rendezvous.rank, "local": rendezvous.local, "node": rendezvous.node, "parent": os.getpid()}
    return start_python(["-c", RANK], {**environment, "ERSPARSE_RANK": json.dumps({**settings, **own})})
