"""The LightningModule of iterative pruning: a learning rate that restarts at every level."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ersparse.lightning.classifier import Classifier
from ersparse.lightning.schedules import restarting


class IterativePruningClassifier(Classifier):
    """Trains levels of equal length, followed by a final training of `epochs` epochs.

    Args:
        *arguments: arguments of `Classifier`.
        levels: number of levels.
        per_level: number of epochs of each level.
        each: whether the schedule applies to each level as well; otherwise the learning rate of levels is constant.
    """

    def __init__(self, *arguments: Any, levels: int, per_level: int, each: bool) -> None:
        super().__init__(*arguments)
        self.levels, self.per_level, self.each = levels, per_level, each

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the schedule of the final training, and of each level; otherwise levels keep the learning rate."""
        if not self.schedule_settings.is_plain_multistep():
            per_epoch = self.steps_per_epoch() if self.schedule_settings.interval == "step" else 1
            return restarting(optimizer, self._place, self.schedule_over, per_epoch)
        gamma = self.optimizer_settings.gamma
        return LambdaLR(optimizer, lambda epoch: gamma ** self._passed(epoch))

    def _place(self, epoch: int) -> tuple[int, int] | None:
        """Return the length of an epoch's level and the epoch within it; None if the learning rate stays."""
        level, epoch_in_level = self.level_of(epoch)
        if level > self.levels:
            return self.epochs, epoch_in_level
        return (self.per_level, epoch_in_level) if self.each else None

    def level_of(self, epoch: int) -> tuple[int, int]:
        """Return the level of an epoch, from 1, and the epoch within it; the final training counts as a level."""
        level = min(epoch // self.per_level, self.levels)
        return level + 1, epoch - level * self.per_level

    def _passed(self, epoch: int) -> int:
        """Return how many milestones of its level an epoch has passed."""
        level, epoch_in_level = self.level_of(epoch)
        if level > self.levels:
            return sum(epoch_in_level >= milestone for milestone in self.milestones(self.epochs))
        return sum(epoch_in_level >= milestone for milestone in self.milestones(self.per_level)) if self.each else 0
