"""The launcher `local`: jobs on this machine, several at a time, each a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.sweep.job import Job
    from ersparse.sweep.local.slots import Slot


class OwnLauncher(Launcher):
    """A launcher that takes jobs which are composed and checked already."""

    here = True  # jobs run on this machine
    extra: Sequence[str] = ()  # words for every job

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config, self.extra = hydra_context, config, same_config(config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """For other sweepers than ours, which hand over words alone."""
        from ersparse.sweep.build_jobs import jobs_of
        from ersparse.sweep.compose import composer_of

        composer = composer_of(self.hydra_context, self.config)
        sys.exit(self.run(jobs_of(job_overrides, composer, here=self.here)))

    def run(self, jobs: Sequence[Job]) -> int:
        """Runs what is not done, and returns the exit status: 0, 1 where a job failed, 130 where it was stopped."""
        raise NotImplementedError

    def dry_run(self, jobs: Sequence[Job]) -> None:
        """Prints what `run` would do."""
        raise NotImplementedError


class LocalLauncher(OwnLauncher):
    """Runs jobs to their end, whatever becomes of single ones."""

    def __init__(self, slots: int | None = None, jobs_per_gpu: int = 1, time_limit: float | None = None) -> None:
        """`time_limit` in seconds."""
        self.slots, self.jobs_per_gpu, self.time_limit = slots, jobs_per_gpu, time_limit

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        for key, kind in (("slots", int), ("jobs_per_gpu", int), ("time_limit", (int, float))):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, kind) and value > 0):
                raise UserError(f"hydra.launcher.{key}={value}: must lie above 0")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def run(self, jobs: Sequence[Job]) -> int:
        from ersparse.sweep.local.pool import Pool
        from ersparse.sweep.progress_table import ProgressTable

        pool = Pool(jobs, self.slots_for(jobs), self.time_limit, self.extra)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops at a checkpoint, as Ctrl-C does
        try:
            with ProgressTable(pool) as screen:
                return pool.run(screen.update)
        finally:
            signal.signal(signal.SIGTERM, before)

    def dry_run(self, jobs: Sequence[Job]) -> None:
        from ersparse.sweep.dry_run import list_jobs

        list_jobs(jobs, len(self.slots_for(jobs)))

    def slots_for(self, jobs: Sequence[Job]) -> list[Slot]:
        """The slots of this machine; of its GPUs, if one of the jobs takes them."""
        from ersparse.sweep.local import slots

        cores, gib = slots.this_machine()
        gpus = slots.visible_gpus(os.environ) if any(job.gpu for job in jobs) else []
        found = slots.slots_of(self.slots, self.jobs_per_gpu, gpus, cores, gib)
        most = max((job.devices for job in jobs), default=1)
        if slots.room_for(most, found, found) is None:
            raise UserError(f"hydra.launcher.slots={self.slots}: must be at least trainer.devices={most}")
        return found


def same_config(config: DictConfig) -> list[str]:
    """Words that make a job compose from the files that its sweep was composed from."""
    words = [word for word in config.hydra.overrides.hydra if word.startswith("hydra.searchpath=")]
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", source.path]
    return words
