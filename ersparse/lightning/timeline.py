"""The units in which the learning rate changes: epochs or optimizer steps, with warm-up and cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ersparse.config.schedule_settings import ScheduleSettings
from ersparse.config.warmup import length

Rate = Callable[[float, int], float]  # (learning rate of a group, unit) -> its rate during that unit


@dataclass(frozen=True)
class Timeline:
    """The units of a training of `epochs` epochs, counted from 0: first warm-up, then cycles of equal length.

    Attributes:
        epochs: length of the training.
        steps: optimizer steps in an epoch.
        settings: settings of the schedule, at the scale of the run.
    """

    epochs: int
    steps: int
    settings: ScheduleSettings

    @cached_property
    def per_epoch(self) -> int:
        """The number of units in an epoch."""
        return self.steps if self.settings.interval == "step" else 1

    @cached_property
    def units(self) -> int:
        """The number of units of the training."""
        return self.epochs * self.per_epoch

    @cached_property
    def warmup(self) -> int:
        """The number of units of warm-up, rounded; at least 1 if there is one, and at most all units but one."""
        value, unit = length(self.settings.warmup)
        if not value:
            return 0
        whole = {"run": self.units, "epoch": self.per_epoch, "step": self.per_epoch / self.steps}[unit]
        return min(max(1, round(value * whole)), self.units - 1)

    def cycle(self, unit: int, start: int) -> tuple[int, int]:
        """Return the position within its cycle of a unit, and the number of units of that cycle.

        Args:
            unit: the unit, from `start` on; the end of the training belongs to the last cycle.
            start: the unit at which the first cycle starts. Boundaries between cycles are rounded.
        """
        count, whole = self.settings.cycles, self.units - start
        starts = [start + round(index * whole / count) for index in range(count + 1)]
        index = max(i for i in range(count) if starts[i] <= unit)
        return unit - starts[index], starts[index + 1] - starts[index]

    def after_warmup(self, rate: Callable[[float, int, int], float]) -> Rate:
        """Return the rate that rises linearly to the full one over the warm-up, and then follows `rate` in each cycle.

        In unit t of a warm-up of w units it is (t + 1) / (w + 1) of the full rate, which unit w then has, as in
        `LinearLR(start_factor=1 / (w + 1), total_iters=w)`.

        Args:
            rate: function of (learning rate, position in the cycle, units of the cycle).
        """

        def at(lr: float, unit: int) -> float:
            if unit < self.warmup:
                return lr * (unit + 1) / (self.warmup + 1)
            return rate(lr, *self.cycle(unit, self.warmup))

        return at

    def decay(self, shape: Callable[[int, int], float]) -> Rate:
        """Return the rate `min_lr + (lr - min_lr) shape(t, n)` in unit t of the n units of a cycle, after warm-up."""
        least = self.settings.min_lr
        return self.after_warmup(lambda lr, t, n: least + (lr - least) * shape(t, n))


def scheduler(optimizer: Optimizer, rate: Rate) -> LambdaLR:
    """Return the scheduler that sets each group's learning rate to `rate` of what it is now."""

    def factor_of(lr: float) -> Callable[[int], float]:
        return lambda unit: rate(lr, unit) / lr

    return LambdaLR(optimizer, [factor_of(group["lr"]) for group in optimizer.param_groups])
