"""Submission of jobs to SLURM: one array for jobs with the same resources, each checked by SLURM before the first."""

from __future__ import annotations

import re
import signal
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from ersparse.config.options import LAUNCH, PACKAGE
from ersparse.distributed.other_launchers import outside_allocation
from ersparse.errors import UserError
from ersparse.storage.atomic import write_json
from ersparse.sweep.durations import format_duration
from ersparse.sweep.job import Job
from ersparse.sweep.slurm.attempt import Attempt
from ersparse.sweep.slurm.limits import max_array_size, partition_time_limit
from ersparse.sweep.slurm.options import SlurmOptions
from ersparse.sweep.slurm.queue import PREFIX, run_slurm_command, slurm_folder

GPU_OPTIONS = {"gres", "gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket", "tres_per_task"}  # of sbatch
KEYS = (  # a phrase in SLURM's error message, and the key that it is about
    ("account", "account"),
    ("partition", "partition"),
    ("qos", "qos"),
    ("time limit", "time_limit"),
    ("memory", "memory"),
)


@dataclass(frozen=True)
class JobArray:
    """Jobs with the same resources and the same root, submitted as one SLURM array.

    Attributes:
        jobs: the jobs, ordered by array index.
        options: the launcher's options.
        sweep: name of the sweep.
        arguments: command-line arguments for every job.
    """

    jobs: Sequence[Job]
    options: SlurmOptions
    sweep: str
    arguments: Sequence[str]

    @property
    def root(self) -> Path:
        return self.jobs[0].root

    @property
    def gpu(self) -> bool:
        return requests_gpu(self.jobs[0], self.options)

    @property
    def nodes(self) -> int:
        return self.jobs[0].nodes

    @property
    def tasks(self) -> int:
        """Tasks on each node, one for each device."""
        return self.jobs[0].devices // self.nodes

    def executor(self, folder: Path) -> SlurmExecutor:
        """Return submitit's executor with the resources of these jobs. `folder` is for its scripts and logs."""
        executor = SlurmExecutor(folder, max_num_timeout=self.options.requeues + 1)  # `Attempt` counts requeues itself
        given = {key: value for key, value in self._parameters(folder.name).items() if value is not None}
        executor.update_parameters(**given)
        executor.parameters["wckey"] = None  # most clusters that account by wckey do not know submitit's
        return executor

    def _parameters(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters; those that are None keep the cluster's default."""
        o = self.options
        return {
            "job_name": name,
            "partition": o.partition,
            "account": o.account,
            "qos": o.qos,
            "time": o.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks,
            "cpus_per_task": o.cpus_per_task,
            "gpus_per_node": self.tasks if self.gpu and not GPU_OPTIONS & _normalised(o.sbatch) else None,
            "mem": o.memory,
            "array_parallelism": o.at_once or len(self.jobs),
            "signal_delay_s": o.signal_before,
            "stderr_to_stdout": True,
            "setup": [*_setup(), *o.setup],
            # srun does not inherit --cpus-per-task from sbatch; a task that ends with an error ends the others
            "srun_args": [f"--cpus-per-task={o.cpus_per_task}", "--distribution=block", "--kill-on-bad-exit=1"],
            "additional_parameters": {"requeue": True} | o.sbatch,
        }

    def script(self, folder: Path | None = None) -> str:
        """Return the batch script as sbatch receives it."""
        executor = self.executor(folder or slurm_folder(self.root) / f"{PREFIX}…")
        if len(self.jobs) > 1:
            executor.parameters["map_count"] = len(self.jobs)
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def check(self) -> None:
        """Have SLURM check the batch script without submitting it.

        Raises:
            UserError: SLURM refuses it, or would let it wait for ever.
        """
        try:
            with outside_allocation():
                run_slurm_command(["sbatch", "--test-only"], self.script())
            longest = partition_time_limit(self.options.partition)
        except UserError as error:
            raise self._explained(str(error)) from None
        if self.options.time_limit > longest:  # SLURM accepts the job, and never starts it
            raise UserError(
                f"hydra.launcher.time_limit={format_duration(self.options.time_limit)}: must be at most "
                f"{format_duration(longest)} in hydra.launcher.partition={self.options.partition or 'null'}"
            )

    def _explained(self, line: str) -> UserError:
        """Return SLURM's refusal as an error that names the key it is about."""
        message = re.sub(r"^.*(error|failure|failed): ", "", line)
        key = next((key for phrase, key in KEYS if phrase in message.lower()), None)
        if key:
            value = getattr(self.options, key)
            shown = "null" if value is None else value
            return UserError(f"hydra.launcher.{key}={shown}: SLURM refuses it ({message})")
        if "node configuration" in message or "gres" in message:
            return self._no_such_nodes(message)
        return UserError(line)

    def _no_such_nodes(self, message: str) -> UserError:
        gpus = f", a GPU for each (hydra.launcher.gpus={str(self.options.gpus).lower()})" if self.gpu else ""
        return UserError(
            f"trainer.devices={self.tasks}: trainer.num_nodes={self.nodes} nodes with so many tasks of "
            f"hydra.launcher.cpus_per_task={self.options.cpus_per_task} cores{gpus} and hydra.launcher.memory="
            f"{self.options.memory or 'null'} are not there (SLURM: {message})"
        )

    def submit(self) -> None:
        """Submit the array. The run of each of its jobs is written to disk first."""
        folder = slurm_folder(self.root) / f"{PREFIX}{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        write_json(folder / "jobs.json", [job.name for job in self.jobs])
        with signals_blocked(), outside_allocation():
            self.executor(folder).submit_array([self._attempt(job) for job in self.jobs])

    def _attempt(self, job: Job) -> Attempt:
        o = self.options
        words = (*job.overrides, *self.arguments, "dataset.download=false")  # compute nodes have no network
        return Attempt(words, job.folder.absolute(), self.sweep, o.cpus_per_task, o.signal_before, o.requeues)


def _normalised(sbatch: Mapping[str, Any]) -> set[str]:
    return {key.replace("-", "_") for key in sbatch}


def requests_gpu(job: Job, options: SlurmOptions) -> bool:
    """Return whether the job asks SLURM for GPUs. The login node's own hardware does not matter."""
    accelerator = job.settings.trainer.accelerator if job.settings else "cpu"
    return job.epochs > 0 and (accelerator == "gpu" or (accelerator == "auto" and options.gpus))


def make_arrays(jobs: Sequence[Job], options: SlurmOptions, sweep: str, arguments: Sequence[str]) -> list[JobArray]:
    """Group jobs into as few arrays as their resources and the cluster's maximum array size allow, in their order."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.root, job.nodes, job.devices, requests_gpu(job, options)), []).append(job)
    size = max_array_size() if jobs else 1
    return [
        JobArray(group[start : start + size], options, sweep, arguments)
        for group in groups.values()
        for start in range(0, len(group), size)
    ]


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Delay termination signals until the end of the `with` block, so that a submission is not cut in half."""
    blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _setup() -> list[str]:
    """Return the shell lines that make the package importable on the nodes when it is not installed."""
    return [f'export PYTHONPATH="{PACKAGE.parent}:$PYTHONPATH"'] if LAUNCH.is_file() else []
