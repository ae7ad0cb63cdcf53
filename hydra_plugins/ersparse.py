"""Hydra plugins: Hydra discovers sweepers and launchers in the package `hydra_plugins` only."""

import ersparse.sweep.local.launcher
import ersparse.sweep.search.sweeper
import ersparse.sweep.slurm.launcher
import ersparse.sweep.sweeper


class GridSweeper(ersparse.sweep.sweeper.GridSweeper):
    """The sweeper of conf/hydra/sweeper/grids.yaml."""


class OptunaSweeper(ersparse.sweep.search.sweeper.OptunaSweeper):
    """The sweeper of conf/hydra/sweeper/optuna.yaml."""


class LocalLauncher(ersparse.sweep.local.launcher.LocalLauncher):
    """The launcher of conf/hydra/launcher/local.yaml."""


class SlurmLauncher(ersparse.sweep.slurm.launcher.SlurmLauncher):
    """The launcher of conf/hydra/launcher/slurm.yaml."""
