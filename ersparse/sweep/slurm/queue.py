"""What waits and runs in SLURM's queue for a folder of runs. Imports no torch.

Before jobs are submitted their folders are written to `<root>/.sweep/slurm/<name>/jobs.json`, and the jobs are given
that name: whoever looks at the queue later knows which job is which run, also where the submitting process was killed.
"""

from __future__ import annotations

import getpass
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ersparse.errors import UserError

FORMAT = "%F|%K|%j|%T|%r|%N"  # array or job, index, name, state, reason, nodes
PREFIX = "ersparse-"
NO_REASON = ("None", "")


@dataclass(frozen=True)
class QueueEntry:
    """A job in the queue.

    Attributes:
        job: 12, or 12_3 in an array.
        state: as SLURM has it, in small letters: pending, running, completing, …
        reason: why it waits, if SLURM says.
        log: what its first task prints.
    """

    job: str
    state: str
    reason: str
    nodes: str
    log: Path

    @property
    def runs(self) -> bool:
        return self.state not in ("pending", "requeued", "requeue_hold", "special_exit")

    def __str__(self) -> str:
        what = f" on {self.nodes}" if self.nodes else f" ({self.reason})" if self.reason else ""
        return f"{self.job} {self.state}{what}"


def folder_of(root: Path) -> Path:
    """What belongs to SLURM below a root."""
    return root / ".sweep" / "slurm"


def submissions(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The folder of each submission, and those of its runs, by index in its array."""
    for path in sorted(folder_of(root).glob(f"{PREFIX}*/jobs.json")):
        yield path.parent, [root / name for name in json.loads(path.read_bytes())]


def queued(root: Path) -> dict[Path, QueueEntry]:
    """By run folder, the jobs in the queue.

    Raises:
        UserError: SLURM does not answer.
    """
    runs = {folder.name: (folder, runs) for folder, runs in submissions(root)}
    found = {}
    for line in _squeue() if runs else []:
        job, index, name, state, reason, nodes = (part.strip() for part in line.split("|"))
        if name in runs:
            folder, names = runs[name]
            number = int(index) if index.isdecimal() else 0
            job = f"{job}_{index}" if index.isdecimal() else job
            reason = "" if reason in NO_REASON else reason
            found[names[number]] = QueueEntry(job, state.lower(), reason, nodes, folder / f"{job}_0_log.out")
    return found


def latest_log(root: Path, run: Path) -> Path | None:
    """What the latest job of a run printed."""
    logs = [
        log
        for folder, runs in submissions(root)
        if run in runs
        for pattern in (f"*_{runs.index(run)}_0_log.out", *(["*_0_log.out"] if len(runs) == 1 else []))
        for log in folder.glob(pattern)
    ]
    return max(logs, key=lambda log: log.stat().st_mtime, default=None)


def tidy(root: Path, done: set[Path]) -> None:
    """Removes the scripts and logs of submissions whose runs are all done."""
    for folder, runs in list(submissions(root)):
        if done.issuperset(runs):
            shutil.rmtree(folder, ignore_errors=True)


def _squeue() -> list[str]:
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", f"--format={FORMAT}"]
    return asked(command).splitlines()


def asked(command: Sequence[str], given: str | None = None) -> str:
    """What a command of SLURM answers.

    Raises:
        UserError: there is no such command, or it fails; the line is its own.
    """
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise UserError(
            f"hydra/launcher=slurm: there is no {command[0]} on the PATH; must be used where jobs are submitted from"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"hydra/launcher=slurm: {command[0]} has not answered for two minutes") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError(f"hydra/launcher=slurm: {lines[-1] if lines else f'{command[0]} failed'}")
    return done.stdout
