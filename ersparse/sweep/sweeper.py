"""The sweeper: from a command line to checked jobs, and on to the launcher."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ersparse.errors import UserError

if TYPE_CHECKING:
    from ersparse.sweep.compose import Composer
    from ersparse.sweep.grids import Axis


class GridSweeper(Sweeper):
    """Grids, zipped axes and unions (`ersparse.sweep.grids`)."""

    def __init__(self, params: Any = None, words: Sequence[str] | None = None) -> None:
        """Both are read from the config, where they are not yet resolved."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the jobs that `arguments` and the presets among them name; ends the process where one failed."""
        from ersparse.sweep.build_jobs import jobs_of  # PyTorch takes a second to import
        from ersparse.sweep.compose import composer_of
        from ersparse.sweep.local.launcher import OwnLauncher

        assert self.config and self.hydra_context and self.launcher
        sweeper = OmegaConf.to_container(self.config.hydra.sweeper, resolve=False)
        assert isinstance(sweeper, dict)
        composer = composer_of(self.hydra_context, self.config)
        own = self.launcher if isinstance(self.launcher, OwnLauncher) else None
        jobs = jobs_of(lists_of(sweeper["words"] or arguments, composer), composer, here=own is None or own.here)
        for job in jobs:
            refuse_ranks(self.config.hydra.launcher._target_, job.devices)
        if any(job.settings and job.settings.dry_run for job in jobs):  # said after an `or`, it holds for all
            from ersparse.sweep.dry_run import list_jobs

            return own.dry_run(jobs) if own else list_jobs(jobs, 1)
        if own:
            sys.exit(own.run(jobs))
        return self.launcher.launch([list(job.words) for job in jobs], initial_job_idx=0)


def refuse_ranks(launcher: str, devices: int) -> None:
    """Hydra's own launcher runs all jobs in one process, where a second device is left out without an error.

    Raises:
        UserError: `launcher`, the class of a sweep's, is that one, and a job asks for several devices.
    """
    if devices != 1 and launcher.endswith("BasicLauncher"):
        raise UserError(
            f"trainer.devices={devices}: must be 1 with hydra/launcher=basic, which runs all jobs in one process and "
            "would train on one device without an error; hydra/launcher=local starts every rank"
        )


def lists_of(words: Sequence[str], composer: Composer) -> list[list[str]]:
    """The words of each job, those with presets that are sweeps included.

    Raises:
        UserError: an axis that cannot be read.
    """
    from ersparse.sweep import grids

    lists = []
    for grid in grids.alternatives(words):
        given = [grids.axis_of(word, composer.parser) for word in grid]
        for chosen in _each_preset(given):
            plain = [
                word for words in grids.product([axis for axis in chosen if len(axis.values) == 1]) for word in words
            ]
            for preset in grids.grids_of(composer.params(plain), composer.parser):
                short = grids.smoke(preset) if "scale=smoke" in plain else preset
                lists += grids.product(grids.replaced(short, chosen))
    return lists


def _each_preset(given: list[Axis]) -> list[list[Axis]]:
    """`given`, once for each preset that is asked for: each of them may bring a sweep of its own."""
    place = next((place for place, axis in enumerate(given) if "experiment" in axis.keys), None)
    if place is None:
        return [given]
    axis = given[place]
    return [[*given[:place], replace(axis, values=(value,)), *given[place + 1 :]] for value in axis.values]
