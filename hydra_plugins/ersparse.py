"""Where Hydra finds our sweeper and our launcher: it takes none from elsewhere."""

import ersparse.sweep.local.launcher
import ersparse.sweep.slurm.launcher
import ersparse.sweep.sweeper


class GridSweeper(ersparse.sweep.sweeper.GridSweeper):
    """conf/hydra/sweeper/grids.yaml names it."""


class LocalLauncher(ersparse.sweep.local.launcher.LocalLauncher):
    """conf/hydra/launcher/local.yaml names it."""


class SlurmLauncher(ersparse.sweep.slurm.launcher.SlurmLauncher):
    """conf/hydra/launcher/slurm.yaml names it."""
