"""Learning-rate schedules: functions from an optimizer to a torch scheduler. Options of conf/schedule name them."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from ersparse.config.schema import OptimizerSettings


def multistep(optimizer: Optimizer, settings: OptimizerSettings, epochs: int) -> LRScheduler:
    """Multiply the learning rate by `optimizer.gamma` at each of `optimizer.milestones`.

    Args:
        optimizer: whose learning rate is scheduled, once an epoch.
        settings: the settings of the optimizer.
        epochs: the length of the run, of which milestones are fractions.
    """
    return MultiStepLR(optimizer, milestone_epochs(settings, epochs), settings.gamma)


def milestone_epochs(settings: OptimizerSettings, epochs: int) -> list[int]:
    """Return the milestones in epochs, at least 1: a milestone at epoch 0 would reduce the rate from the start."""
    return [max(1, round(fraction * epochs)) for fraction in settings.milestones]
