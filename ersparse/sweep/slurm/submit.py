"""From jobs to SLURM's queue: arrays of jobs that ask for the same, each checked by SLURM before the first is sent."""

from __future__ import annotations

import math
import re
import signal
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from ersparse.config.options import LAUNCH, PACKAGE
from ersparse.errors import UserError
from ersparse.storage.atomic import write_json
from ersparse.storage.locks import exclusive
from ersparse.sweep.job import Job
from ersparse.sweep.progress_table import clock
from ersparse.sweep.slurm.attempt import Attempt
from ersparse.sweep.slurm.options import Options, seconds
from ersparse.sweep.slurm.queue import PREFIX, asked, folder_of

KEYS = (  # what SLURM's refusals are about
    ("account", "account"),
    ("partition", "partition"),
    ("qos", "qos"),
    ("time limit", "time_limit"),
    ("memory", "memory"),
)


@dataclass(frozen=True)
class Array:
    """Jobs that ask for the same nodes, and leave their results below the same root."""

    jobs: Sequence[Job]
    options: Options
    sweep: str
    extra: Sequence[str]

    @property
    def root(self) -> Path:
        return self.jobs[0].root

    @property
    def gpu(self) -> bool:
        return asks_for_gpu(self.jobs[0], self.options)

    @property
    def nodes(self) -> int:
        return self.jobs[0].nodes

    @property
    def tasks(self) -> int:
        """On each node: one for each device."""
        return self.jobs[0].devices // self.nodes

    def executor(self, folder: Path) -> SlurmExecutor:
        """submitit's, told what to ask for."""
        o = self.options
        executor = SlurmExecutor(folder, max_num_timeout=o.requeues + 1)  # attempts count for themselves
        asked_for = {
            "job_name": folder.name,
            "partition": o.partition,
            "account": o.account,
            "qos": o.qos,
            "time": o.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks,
            "cpus_per_task": o.cpus_per_task,
            "gpus_per_node": self.tasks if self.gpu else None,
            "mem": o.memory,
            "array_parallelism": o.at_once or len(self.jobs),
            "signal_delay_s": o.signal_before,
            "stderr_to_stdout": True,
            "setup": [*_paths(), *o.setup],
            # srun does not ask for the CPUs that sbatch was asked for; one task that ends badly ends all
            "srun_args": [f"--cpus-per-task={o.cpus_per_task}", "--distribution=block", "--kill-on-bad-exit=1"],
            "additional_parameters": {"requeue": True} | o.sbatch,
        }
        executor.update_parameters(**{key: value for key, value in asked_for.items() if value is not None})
        executor.parameters["wckey"] = None  # submitit's own key is unknown to most clusters that keep accounts by key
        return executor

    def script(self, folder: Path | None = None) -> str:
        """As sbatch gets it."""
        executor = self.executor(folder or folder_of(self.root) / f"{PREFIX}…")
        if len(self.jobs) > 1:
            executor.parameters["map_count"] = len(self.jobs)
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def check(self) -> None:
        """Has SLURM look at the script, which submits nothing.

        Raises:
            UserError: SLURM would refuse it.
        """
        try:
            asked(["sbatch", "--test-only"], self.script())
            most = longest(self.options.partition)
        except UserError as error:
            raise self._explained(str(error)) from None
        if self.options.time_limit > most:  # SLURM would let it wait for ever
            raise UserError(
                f"hydra.launcher.time_limit={clock(self.options.time_limit)}: must be at most {clock(most)} in "
                f"hydra.launcher.partition={self.options.partition or 'null'}"
            )

    def _explained(self, line: str) -> UserError:
        """SLURM's refusal, with the key that it is about."""
        said = re.sub(r"^.*(error|failure|failed): ", "", line)
        key = next((key for word, key in KEYS if word in said.lower()), None)
        if key:
            value = getattr(self.options, key)
            return UserError(f"hydra.launcher.{key}={'null' if value is None else value}: SLURM refuses it ({said})")
        if "node configuration" in said or "gres" in said:
            gpus = f", a GPU for each (hydra.launcher.gpus={str(self.options.gpus).lower()})" if self.gpu else ""
            return UserError(
                f"trainer.devices={self.tasks}: trainer.num_nodes={self.nodes} nodes with so many tasks of "
                f"hydra.launcher.cpus_per_task={self.options.cpus_per_task} cores{gpus} and hydra.launcher.memory="
                f"{self.options.memory or 'null'} are not there (SLURM: {said})"
            )
        return UserError(line)

    def submit(self) -> None:
        """Sends the array; which job is which run is on disk before."""
        folder = folder_of(self.root) / f"{PREFIX}{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        write_json(folder / "jobs.json", [job.name for job in self.jobs])
        with undisturbed():
            self.executor(folder).submit_array([self._attempt(job) for job in self.jobs])

    def _attempt(self, job: Job) -> Attempt:
        o = self.options
        words = (*job.words, *self.extra, "dataset.download=false")  # nodes have no network
        return Attempt(words, job.folder.absolute(), self.sweep, o.cpus_per_task, o.signal_before, o.requeues)


def asks_for_gpu(job: Job, options: Options) -> bool:
    """Whether the job trains on what a login node may not have."""
    accelerator = job.settings.trainer.accelerator if job.settings else "cpu"
    return job.epochs > 0 and (accelerator == "gpu" or (accelerator == "auto" and options.gpus))


def arrays_of(jobs: Sequence[Job], options: Options, sweep: str, extra: Sequence[str]) -> list[Array]:
    """As few as the cluster takes, in the order of the jobs."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.root, job.nodes, job.devices, asks_for_gpu(job, options)), []).append(job)
    most = largest_array() if jobs else 1
    return [
        Array(group[start : start + most], options, sweep, extra)
        for group in groups.values()
        for start in range(0, len(group), most)
    ]


def longest(partition: str | None) -> float:
    """Seconds that a job may take in a partition; of several, or of the default one, the most that is certain."""
    limits = [math.inf]
    for line in asked(["scontrol", "show", "partition", "--oneliner"]).splitlines():
        shown = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if shown["PartitionName"] in (partition or "").split(",") or (not partition and shown["Default"] == "YES"):
            limits.append(math.inf if shown["MaxTime"] == "UNLIMITED" else seconds(shown["MaxTime"]))
    return min(limits)


def largest_array() -> int:
    """How many jobs the cluster takes in one array."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", asked(["scontrol", "show", "config"]))
    return max(1, int(match[1]) - 1) if match else 1000


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Two commands that look at the queue and submit do so one after the other."""
    with exclusive(folder_of(root) / ".lock"):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that end a process are heard after the `with`: between SLURM's answer and ours nothing must be lost."""
    waiting = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _paths() -> list[str]:
    """Nodes find the package where it is not installed, but lies beside launch.py."""
    return [f'export PYTHONPATH="{PACKAGE.parent}:$PYTHONPATH"'] if LAUNCH.is_file() else []
