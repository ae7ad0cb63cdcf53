"""The launcher `slurm`: jobs on a cluster, where they outlive the command that submitted them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.local.launcher import OwnLauncher

if TYPE_CHECKING:
    from ersparse.sweep.job import Job
    from ersparse.sweep.slurm.monitor import Queue
    from ersparse.sweep.slurm.submit import Array


class SlurmLauncher(OwnLauncher):
    """Submits what is neither done nor in the queue, and waits for all."""

    here = False

    def __init__(self, **keys: Any) -> None:
        """`keys` are those of conf/hydra/launcher/slurm.yaml."""
        self.keys = OmegaConf.to_container(OmegaConf.create(keys), resolve=True)
        self.extra: list[str] = []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from ersparse.config.groups import build
        from ersparse.sweep.slurm.options import Options

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        assert isinstance(self.keys, dict)
        self.options = build(Options, {str(key): value for key, value in self.keys.items()}, "hydra.launcher.")

    def run(self, jobs: Sequence[Job]) -> int:
        """Returns the exit status: 0, 1 where a job failed, 130 where the waiting was stopped."""
        from ersparse.sweep.progress_table import ProgressTable
        from ersparse.sweep.slurm.monitor import Queue
        from ersparse.sweep.slurm.queue import tidy

        queue = Queue(jobs)
        new = self._submit(queue)
        if not self.options.wait:
            print(f"{new} of {len(jobs)} jobs submitted; python -m ersparse status {jobs[0].root} tells the rest")
            return 0
        with ProgressTable(queue) as screen:
            try:
                status = queue.wait(screen.update)
            except KeyboardInterrupt:
                status = 130
        if status == 130:
            print(self._left_behind(queue))
        for root in queue.roots:
            tidy(root, {task.job.folder for task in queue.of("done")})
        return status

    def _submit(self, queue: Queue) -> int:
        """Sends what is to be done and not yet in the queue; returns how many that are."""
        from ersparse.sweep.slurm.monitor import places_of
        from ersparse.sweep.slurm.submit import one_at_a_time

        for task in queue.tasks:
            task.skip_if_done()
        self._prepare(queue.not_in(places_of(queue.roots)), queue.name)
        with ExitStack() as stack:
            for root in sorted(queue.roots):
                stack.enter_context(one_at_a_time(root))
            new = queue.not_in(places_of(queue.roots))
            for array in self._arrays(new, queue.name):
                array.submit()
        return len(new)

    def _prepare(self, jobs: Sequence[Job], sweep: str) -> None:
        """Everything that would make a job fail on its node, and can be seen from here."""
        from ersparse.data.load import load_arrays

        for job in jobs:
            if run_json.in_use(job.folder):
                raise UserError(f"{job.folder}: in use by another process on this machine; wait for it, or stop it")
        self._checked(jobs, sweep)
        seen = set()
        for job in jobs:
            assert job.settings
            data = job.settings.dataset
            if job.epochs and data.model_dump_json() not in seen:
                seen.add(data.model_dump_json())
                load_arrays(data)  # here, where there is a network; the files stay

    def _checked(self, jobs: Sequence[Job], sweep: str) -> list[Array]:
        """What would be submitted, once SLURM has looked at it."""
        from ersparse.sweep.slurm.preflight import refuse_two_in_one, short_limits

        refuse_two_in_one(jobs)
        arrays = self._arrays(jobs, sweep)
        for array in arrays:
            array.check()
        for line in short_limits(jobs, self.options.time_limit):
            print(f"warning: {line}")
        return arrays

    def _arrays(self, jobs: Sequence[Job], sweep: str) -> list[Array]:
        from ersparse.sweep.slurm.submit import arrays_of

        return arrays_of(jobs, self.options, sweep, self.extra)

    def dry_run(self, jobs: Sequence[Job]) -> None:
        """Prints the jobs and the scripts; submits nothing."""
        from ersparse.sweep.dry_run import list_jobs
        from ersparse.sweep.slurm.monitor import Queue

        queue = Queue(jobs)
        for task in queue.tasks:
            task.skip_if_done()
        for array in self._checked([task.job for task in queue.of("waiting")], queue.name):
            print(array.script())
        list_jobs(jobs, self.options.at_once or len(jobs))

    def _left_behind(self, queue: Queue) -> str:
        jobs = sorted({task.note.split(" ")[0].split("_")[0] for task in queue.of("waiting", "running") if task.note})
        return f"the jobs stay in the queue: the same command waits for them, scancel {' '.join(jobs)} takes them out"
