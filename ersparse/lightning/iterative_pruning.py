"""The LightningModule of iterative pruning: a learning rate that starts anew at every level."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ersparse.lightning.classifier import Classifier


class IterativePruningClassifier(Classifier):
    """Levels of equal length, then a final training of `epochs` epochs.

    Args:
        levels: how many.
        per_level: epochs of each.
        each: levels have the milestones of the final training as well; else their lr is constant.
    """

    def __init__(self, *arguments: Any, levels: int, per_level: int, each: bool) -> None:
        super().__init__(*arguments)
        self.levels, self.per_level, self.each = levels, per_level, each

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        gamma = self.optimizer_settings.gamma
        return LambdaLR(optimizer, lambda epoch: gamma ** self._passed(epoch))

    def level_of(self, epoch: int) -> tuple[int, int]:
        """(level from 1, epochs into it); the final training counts as one more level."""
        level = min(epoch // self.per_level, self.levels)
        return level + 1, epoch - level * self.per_level

    def _passed(self, epoch: int) -> int:
        """How many milestones the learning rate has behind it."""
        level, into = self.level_of(epoch)
        if level > self.levels:
            return sum(into >= milestone for milestone in self.milestones(self.epochs))
        return sum(into >= milestone for milestone in self.milestones(self.per_level)) if self.each else 0
