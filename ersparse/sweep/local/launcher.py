"""The launcher `local`: jobs on this machine, several at a time, each in a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ersparse.distributed.signals import interruptible
from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.sweep.job import Job
    from ersparse.sweep.local.pool import Pool
    from ersparse.sweep.local.slots import Slot
    from ersparse.sweep.search.trials import Trials


class JobLauncher(Launcher):
    """Base class of launchers that accept jobs which have been composed and checked before the first starts.

    Attributes:
        local: whether the jobs run on this machine.
        arguments: command-line arguments for every job, set by `setup`.
    """

    local = True
    arguments: Sequence[str] = ()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config, self.arguments = hydra_context, config, config_source_arguments(config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Check and run the jobs of a sweeper other than `GridSweeper`, which passes overrides only."""
        from ersparse.sweep.build_jobs import build_jobs
        from ersparse.sweep.compose import make_composer

        jobs = build_jobs(job_overrides, make_composer(self.hydra_context, self.config), local=self.local)
        if any(job.settings and job.settings.dry_run for job in jobs):
            self.dry_run(jobs)
            sys.exit(0)
        sys.exit(self.run(jobs))

    def run(self, jobs: Sequence[Job]) -> int:
        """Run the jobs that are not done.

        Returns:
            The exit status: 0, 1 if a job failed, 130 if the sweep was interrupted.
        """
        raise NotImplementedError

    def dry_run(self, jobs: Sequence[Job]) -> None:
        """Print what `run` would do."""
        raise NotImplementedError

    def check_search(self, examples: Sequence[Job]) -> None:
        """Check what would make the trials of a search fail; `examples` has jobs with each choice of its dimensions.

        Raises:
            UserError: it would.
        """

    def search(self, trials: Trials, examples: Sequence[Job]) -> int:
        """Run the jobs of a search, and return the exit status as `run` does.

        Args:
            trials: the search, which adds jobs.
            examples: jobs with each choice of its dimensions; the number of trials at a time is chosen by the first.
        """
        raise NotImplementedError


class LocalLauncher(JobLauncher):
    """Runs jobs on the slots of this machine. A job that fails does not stop the others."""

    def __init__(
        self,
        slots: int | None = None,
        jobs_per_gpu: int = 1,
        time_limit: float | None = None,
        mps: str | bool = "auto",
    ) -> None:
        """Store the keys of conf/hydra/launcher/local.yaml; `setup` checks them.

        Args:
            slots: number of jobs at a time; None is one for each GPU, or for each core that has 2 GiB of memory.
            jobs_per_gpu: number of jobs that share a GPU.
            time_limit: seconds after which a job is interrupted; None is no limit.
            mps: "auto" starts NVIDIA's Multi-Process Service for jobs that share a GPU, where it can; False does not.
        """
        self.slots, self.jobs_per_gpu, self.time_limit, self.mps = slots, jobs_per_gpu, time_limit, mps

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the keys of the launcher.

        Raises:
            UserError: a value is not allowed.
        """
        for key, kind in (("slots", int), ("jobs_per_gpu", int), ("time_limit", (int, float))):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, kind) and value > 0):
                integer = ", and be an integer" if kind is int else ""
                raise UserError(f"hydra.launcher.{key}={value}: must lie above 0{integer}")
        if self.mps not in ("auto", False):
            raise UserError(f"hydra.launcher.mps={self.mps}: must be auto or false")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def run(self, jobs: Sequence[Job]) -> int:
        from ersparse.sweep.local.pool import Pool
        from ersparse.sweep.progress_table import ProgressTable

        pool = Pool(jobs, self.slots_for(jobs), self.time_limit, self.arguments)
        with interruptible(), self._sharing(pool), ProgressTable(pool) as table:  # stop at a checkpoint, as on Ctrl-C
            return pool.run(table.update)

    def check_search(self, examples: Sequence[Job]) -> None:
        self.slots_for([replace(example, fresh=True) for example in examples])  # also if they are done

    def search(self, trials: Trials, examples: Sequence[Job]) -> int:
        from ersparse.sweep.local.pool import Pool
        from ersparse.sweep.progress_table import ProgressTable

        at_once = min(trials.parallel or trials.n_trials, trials.n_trials)
        slots = self.slots_for([replace(examples[0], fresh=True)] * at_once)
        trials.parallel = min(at_once, max(1, len(slots) // examples[0].devices))
        pool = Pool([], slots, self.time_limit, self.arguments)
        pool.name = trials.search.name
        with interruptible(), self._sharing(pool), ProgressTable(pool) as table:

            def show() -> None:
                trials.update(pool)
                table.update()

            show()
            return pool.run(show)

    def dry_run(self, jobs: Sequence[Job]) -> None:
        from ersparse.sweep.dry_run import print_jobs

        print_jobs(jobs, len(self.slots_for(jobs)))

    @contextmanager
    def _sharing(self, pool: Pool) -> Iterator[None]:
        """Let jobs that share a GPU run on it at the same time during the `with` block."""
        from ersparse.sweep.local import mps

        gpus = sorted({slot.gpu for slot in pool.slots if slot.gpu})
        wanted = len(pool.slots) > len(gpus) and self._can_share(gpus)
        with mps.shared_gpus(wanted, gpus) as pool.variables:
            yield

    def _can_share(self, gpus: Sequence[str]) -> bool:
        from ersparse.sweep.local import mps

        return self.mps == "auto" and mps.can_share(self.jobs_per_gpu, gpus, os.environ)

    def slots_for(self, jobs: Sequence[Job]) -> list[Slot]:
        """Return the slots of this machine: of its GPUs if one of the jobs trains on a GPU, else of its cores.

        There are no more slots than the jobs that are not done can use, so that no core is left without a job.

        Raises:
            UserError: there are fewer slots, or GPUs, than a job has devices.
        """
        from ersparse.sweep.job_state import is_done
        from ersparse.sweep.local import slots

        jobs = [job for job in jobs if not is_done(job)]
        cores, memory = slots.machine_resources()
        gpus = slots.visible_gpus(os.environ) if any(job.gpu for job in jobs) else []
        if self._can_share(gpus):
            gpus = slots.with_uuids(gpus)
        elif gpus:
            slots.refuse_sharing_exclusive_gpus(self.jobs_per_gpu, os.environ)
        needed = max(1, sum(job.devices for job in jobs))
        found = slots.make_slots(self.slots, self.jobs_per_gpu, gpus, cores, memory, needed)
        devices = max((job.devices for job in jobs), default=1)
        if slots.allocate(devices, found, found) is None:
            if self.slots is not None and self.slots < devices <= len(gpus):
                raise UserError(f"hydra.launcher.slots={self.slots}: must be at least trainer.devices={devices}")
            raise UserError(f"trainer.devices={devices}: must be at most {len(gpus)}, the number of GPUs here")
        return found


def config_source_arguments(config: DictConfig) -> list[str]:
    """Return the command-line arguments with which a job composes from the same configuration files as its sweep."""
    arguments = [override for override in config.hydra.overrides.hydra if override.startswith("hydra.searchpath=")]
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            arguments += ["--config-dir", source.path]
    return arguments
