"""Learning-rate schedules: functions from an optimizer to a torch scheduler. Options of conf/schedule name them.

With lr the learning rate of a group, m = `schedule.min_lr`, and t = 0, …, n − 1 the units (`schedule.interval`) of a
cycle after warm-up, the rates are those that each function states. `Timeline` defines warm-up and cycles.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR

from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.config.schedule_settings import ScheduleSettings
from ersparse.errors import UserError
from ersparse.lightning.timeline import Timeline, scheduler
from ersparse.locate import own_code

ONECYCLE_START = 1 / 25  # of lr, as in torch's OneCycleLR
PROBED_STEPS = 1000  # in an epoch, whose number is not known before the data set is read


def multistep(
    optimizer: Optimizer, settings: OptimizerSettings, epochs: int, timeline: Timeline | None = None
) -> LRScheduler:
    """Multiply the learning rate by `optimizer.gamma` at each of `optimizer.milestones`, not below `schedule.min_lr`.

    Args:
        optimizer: whose learning rate is scheduled.
        settings: the settings of the optimizer.
        epochs: the length of the run, of which milestones are fractions; with `schedule.cycles`, of a cycle.
        timeline: the units of the run; None and the defaults of conf/schedule are once an epoch.
    """
    if timeline is None or timeline.settings.is_plain():
        return MultiStepLR(optimizer, milestone_epochs(settings, epochs), settings.gamma)
    least, warmup = timeline.settings.min_lr, timeline.warmup

    def rate(lr: float, unit: int) -> float:
        if unit < warmup:
            return lr * (unit + 1) / (warmup + 1)
        t, n = timeline.cycle(unit, 0)
        return max(least, lr * settings.gamma ** sum(t >= milestone for milestone in milestone_epochs(settings, n)))

    return scheduler(optimizer, rate)


def cosine(optimizer: Optimizer, settings: OptimizerSettings, epochs: int, timeline: Timeline) -> LRScheduler:
    """Decay as m + (lr − m) (1 + cos(π t / n)) / 2 (Loshchilov & Hutter 2017); with cycles, restart (SGDR)."""
    return scheduler(optimizer, timeline.decay(lambda t, n: (1 + math.cos(math.pi * t / n)) / 2))


def linear(optimizer: Optimizer, settings: OptimizerSettings, epochs: int, timeline: Timeline) -> LRScheduler:
    """Decay as m + (lr − m) (1 − t / n)."""
    return scheduler(optimizer, timeline.decay(lambda t, n: 1 - t / n))


def trapezoidal(
    optimizer: Optimizer, settings: OptimizerSettings, epochs: int, timeline: Timeline, decay: float = 0.2
) -> LRScheduler:
    """Keep the learning rate, and decay it linearly to m over the last `decay` of each cycle.

    Also called warmup-stable-decay (Zhai et al. 2022, section 3.4; Hägele et al. 2024).

    Args:
        optimizer: whose learning rate is scheduled.
        settings: the settings of the optimizer.
        epochs: the length of the run.
        timeline: the units of the run.
        decay: fraction of a cycle; its units are rounded, and at least 1.
    """

    def shape(t: int, n: int) -> float:
        falling = max(1, round(decay * n))
        return min(1.0, (n - t) / falling)

    return scheduler(optimizer, timeline.decay(shape))


def constant(optimizer: Optimizer, settings: OptimizerSettings, epochs: int, timeline: Timeline) -> LRScheduler:
    """Keep the learning rate."""
    return scheduler(optimizer, timeline.decay(lambda t, n: 1.0))


def onecycle(optimizer: Optimizer, settings: OptimizerSettings, epochs: int, timeline: Timeline) -> LRScheduler:
    """Rise from lr / 25 to lr during warm-up and fall to m, both by half cosines (Smith & Topin 2019).

    The rates are those of `OneCycleLR(max_lr=lr, total_steps=n, pct_start=w / n)` with a warm-up of w of n units, whose
    last unit has the rate m. Momentum stays. With cycles, each one rises over the same part.
    """
    part, least = timeline.warmup / timeline.units, timeline.settings.min_lr

    def rate(lr: float, unit: int) -> float:
        t, n = timeline.cycle(unit, 0)
        peak = part * n - 1
        if t < peak:
            return _half_cosine(lr * ONECYCLE_START, lr, t / peak)
        return _half_cosine(lr, least, min(1.0, (t - max(peak, 0)) / max(n - 1 - max(peak, 0), 1)))

    return scheduler(optimizer, rate)


def milestone_epochs(settings: OptimizerSettings, epochs: int) -> list[int]:
    """Return the milestones in epochs, at least 1: a milestone at epoch 0 would reduce the rate from the start."""
    return [max(1, round(fraction * epochs)) for fraction in settings.milestones]


def make_schedule(
    optimizer: Optimizer, settings: OptimizerSettings, schedule: ScheduleSettings, timeline: Timeline
) -> LRScheduler:
    """Return the scheduler that the settings name; its function gets the timeline if it has an argument for it."""
    function = schedule.resolve()
    takes_timeline = "timeline" in inspect.signature(function).parameters
    keys = schedule.own_keys() | ({"timeline": timeline} if takes_timeline else {})
    made: LRScheduler = function(optimizer, settings, timeline.epochs, **keys)
    return made


def probe_schedule(settings: OptimizerSettings, schedule: ScheduleSettings, epochs: int) -> None:
    """Make the scheduler once, of an optimizer that stands in for the run's, as if an epoch had a thousand steps.

    Raises:
        UserError: the schedule does not take its arguments, raises, or is no scheduler.
    """
    where = f"schedule={schedule.name}"
    stand_in = torch.optim.SGD([torch.zeros(1)], settings.lr)
    with own_code(where, schedule.target):
        made = make_schedule(stand_in, settings, schedule, Timeline(epochs, PROBED_STEPS, schedule))
    if not isinstance(made, LRScheduler):
        raise UserError(f"{where}: {schedule.target} returns {type(made).__name__}, must return an LRScheduler")


def restarting(
    optimizer: Optimizer,
    place: Callable[[int], tuple[int, int] | None],
    make: Callable[[Optimizer, int], LRScheduler],
    per_epoch: int,
) -> LambdaLR:
    """Return a scheduler that repeats a schedule in each level of a run.

    Args:
        optimizer: whose learning rate is scheduled.
        place: function from the epoch to the length of its level, in epochs, and the epoch within it; None keeps the
            learning rate.
        make: function from an optimizer and a length in epochs to the schedule of a level.
        per_epoch: number of units of the schedule in an epoch.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups]

    @cache
    def table(epochs: int) -> list[list[float]]:
        return _rates(make, rates, epochs, per_epoch)

    def factor_of(group: int) -> Callable[[int], float]:
        def factor(unit: int) -> float:
            epoch, rest = divmod(unit, per_epoch)
            where = place(epoch)
            return 1.0 if where is None else table(where[0])[where[1] * per_epoch + rest][group] / rates[group]

        return factor

    return LambdaLR(optimizer, [factor_of(group) for group in range(len(rates))])


def _rates(
    make: Callable[[Optimizer, int], LRScheduler], rates: list[float], epochs: int, per_epoch: int
) -> list[list[float]]:
    """Return the learning rates of all groups in each unit of a level, and after it."""
    stand_in = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates])
    schedule, found = make(stand_in, epochs), []
    for _ in range(epochs * per_epoch + 1):
        found.append([float(group["lr"]) for group in stand_in.param_groups])
        stand_in.step()
        schedule.step()
    return found


def _half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
