"""The sweeper: turns a command line into checked jobs, and passes them to the launcher."""

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
    """Sweeps over grids, zipped axes and unions (`ersparse.sweep.grids`)."""

    def __init__(self, params: Any = None, words: Sequence[str] | None = None) -> None:
        """Accept the keys of conf/hydra/sweeper/grids.yaml, which `sweep` reads from the config before resolution."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs of a command line and its presets, and exit with the status of the sweep.

        Raises:
            UserError: a job is refused; none has been started.
        """
        from ersparse.sweep.build_jobs import build_jobs  # PyTorch takes a second to import
        from ersparse.sweep.compose import make_composer
        from ersparse.sweep.local.launcher import JobLauncher

        assert self.config and self.hydra_context and self.launcher
        sweeper = OmegaConf.to_container(self.config.hydra.sweeper, resolve=False)
        assert isinstance(sweeper, dict)
        composer = make_composer(self.hydra_context, self.config)
        launcher = self.launcher if isinstance(self.launcher, JobLauncher) else None
        override_lists = expand(words_of(sweeper["words"]) or arguments, composer)
        jobs = build_jobs(override_lists, composer, local=launcher is None or launcher.local)
        for job in jobs:
            refuse_ranks(self.config.hydra.launcher._target_, job.devices)
        if any(job.settings and job.settings.dry_run for job in jobs):  # one grid of a union may ask for all
            from ersparse.sweep.dry_run import print_jobs

            return launcher.dry_run(jobs) if launcher else print_jobs(jobs, 1)
        if launcher:
            sys.exit(launcher.run(jobs))
        return self.launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=0)


def words_of(words: Any) -> list[str]:
    """Return the overrides that the command line has quoted.

    Raises:
        UserError: somebody else has set them.
    """
    if words is not None and not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise UserError(f"hydra.sweeper.words={words}: must be a list of overrides; leave it to the command line")
    return words or []


def refuse_ranks(launcher: str, devices: int) -> None:
    """Refuse several devices with Hydra's basic launcher.

    It runs all jobs in one process, where training would use a single device without an error.

    Args:
        launcher: class of the launcher, as its `_target_` names it.
        devices: number of ranks of a job.

    Raises:
        UserError: it is the basic launcher, and `devices` is not 1.
    """
    if devices != 1 and launcher.endswith("BasicLauncher"):
        raise UserError(
            f"trainer.devices={devices}: must be 1 with hydra/launcher=basic, which runs all jobs in one process and "
            "would train on one device without an error; hydra/launcher=local starts every rank"
        )


def expand(overrides: Sequence[str], composer: Composer) -> list[list[str]]:
    """Expand the overrides of a sweep, and of the presets among them, into the overrides of each job.

    Raises:
        UserError: an axis cannot be parsed.
    """
    from ersparse.sweep import grids

    expanded = []
    for alternative in grids.split_union(overrides):
        given = [grids.parse_axis(override, composer.parser) for override in alternative]
        for axes in _by_preset(given):
            fixed = [
                text for texts in grids.product([axis for axis in axes if len(axis.values) == 1]) for text in texts
            ]
            for preset in grids.parse_params(composer.sweep_params(fixed), composer.parser):
                grid = grids.shorten(preset) if "scale=smoke" in fixed else preset
                expanded += grids.product(grids.replace_axes(grid, axes))
    return expanded


def _by_preset(axes: list[Axis]) -> list[list[Axis]]:
    """Return `axes` once for each value of `experiment`: each preset may have a sweep of its own."""
    place = next((place for place, axis in enumerate(axes) if "experiment" in axis.keys), None)
    if place is None:
        return [axes]
    presets = axes[place]
    return [[*axes[:place], replace(presets, values=(value,)), *axes[place + 1 :]] for value in presets.values]
