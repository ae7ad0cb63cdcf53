"""Learning-rate schedules against their closed forms and PyTorch's own schedulers, also through a Trainer."""

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from fitting import SGD, batches, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

from ersparse.config.groups import build
from ersparse.config.schedule_settings import ScaleSettings, ScheduleSettings
from ersparse.errors import UserError
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.iterative_pruning import IterativePruningClassifier
from ersparse.lightning.schedules import make_schedule
from ersparse.lightning.timeline import Timeline

RATES = [0.1, 0.03]  # of two groups of parameters


def schedule_of(name, **keys):
    return build(ScheduleSettings, {"name": name, **keys})


def optimizer_of(rates=RATES):
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates], lr=1.0)


def rates_of(scheduler, units):
    """Learning rates of both groups in each unit."""
    found = []
    for _ in range(units):
        found.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def planned(schedule, epochs, steps, optimizer_settings=SGD, rates=RATES):
    optimizer = optimizer_of(rates)
    scheduler = make_schedule(optimizer, optimizer_settings, schedule, Timeline(epochs, steps, schedule))
    return rates_of(scheduler, epochs * (steps if schedule.interval == "step" else 1))


def closed_form(name, lr, low, unit, units, warm, cycles):
    """The rate of one unit, from the definitions in docs/configuration.md, without the code under test."""
    start = 0 if name in ("multistep", "onecycle") else warm
    bounds = [start + round(i * (units - start) / cycles) for i in range(cycles + 1)]
    cycle = [i for i in range(cycles) if bounds[i] <= unit][-1] if unit >= start else 0
    t, n = unit - bounds[cycle], bounds[cycle + 1] - bounds[cycle]
    if name == "onecycle":
        peak = warm / units * n - 1
        if t < peak:
            return lr + (lr / 25 - lr) / 2 * (1 + math.cos(math.pi * t / peak))
        peak = max(peak, 0)
        return low + (lr - low) / 2 * (1 + math.cos(math.pi * min(1, (t - peak) / max(1, n - 1 - peak))))
    if unit < warm:
        return lr * (unit + 1) / (warm + 1)
    if name == "multistep":
        return max(low, lr * 0.1 ** sum(t >= max(1, round(part * n)) for part in (0.5, 0.75)))
    falling = max(1, round(0.2 * n))
    shape = {
        "cosine": 0.5 + 0.5 * math.cos(math.pi * t / n),
        "linear": (n - t) / n,
        "trapezoidal": min(1, (n - t) / falling),
        "constant": 1,
    }[name]
    return low + (lr - low) * shape


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_schedule_equals_its_closed_form(data):
    name = data.draw(st.sampled_from(["multistep", "cosine", "linear", "onecycle", "trapezoidal", "constant"]))
    epochs, steps = data.draw(st.integers(3, 12)), data.draw(st.integers(1, 9))
    interval = data.draw(st.sampled_from(["epoch", "step"]))
    units = epochs * steps if interval == "step" else epochs
    kind = data.draw(st.sampled_from(["none", "fraction", "epochs", "steps"]))
    warmup, warm = 0.0, 0
    if kind == "fraction":
        warmup = data.draw(st.sampled_from([0.01, 0.1, 0.3, 0.5]))
        warm = max(1, round(warmup * units))
    elif kind == "epochs":
        warmup = data.draw(st.integers(1, epochs - 1))
        warm = warmup * (steps if interval == "step" else 1)
    elif kind == "steps":
        count = data.draw(st.integers(1, (epochs - 1) * steps))
        warmup, warm = f"{count}steps", count if interval == "step" else max(1, round(count / steps))
    falls = name != "constant"
    low = data.draw(st.sampled_from([0.0, 1e-4, 0.02])) if falls else 0.0
    cycles = data.draw(st.integers(1, max(1, (units - warm) // 3))) if falls else 1
    keys = {"warmup": warmup, "min_lr": low, "cycles": cycles, "interval": interval}
    found = planned(schedule_of(name, **keys), epochs, steps)
    for unit in range(units):
        wanted = [closed_form(name, lr, low, unit, units, warm, cycles) for lr in RATES]
        assert found[unit] == pytest.approx(wanted, rel=1e-9), (name, keys, unit)


def torch_rates(make, units):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR steps its parts with an epoch
        return rates_of(make(optimizer_of()), units)


def warm_cosine(optimizer):
    ramp = lr_scheduler.LinearLR(optimizer, 1 / 6, total_iters=5)
    rest = lr_scheduler.CosineAnnealingLR(optimizer, 35, eta_min=0.001)
    return lr_scheduler.SequentialLR(optimizer, [ramp, rest], [5])


@pytest.mark.parametrize(
    "name, keys, make",
    [
        ("multistep", {}, lambda o: lr_scheduler.MultiStepLR(o, [20, 30])),
        ("cosine", {"warmup": 5, "min_lr": 0.001}, warm_cosine),
        ("cosine", {"cycles": 4}, lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10)),
        ("linear", {}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, 40)),
        ("constant", {"warmup": "3steps"}, lambda o: lr_scheduler.LinearLR(o, 1 / 4, total_iters=3)),
        (
            "onecycle",
            {"warmup": 0.3},
            lambda o: lr_scheduler.OneCycleLR(o, RATES, 40, cycle_momentum=False, final_div_factor=math.inf),
        ),
    ],
)
def test_schedules_equal_those_of_pytorch(name, keys, make):
    found = planned(schedule_of(name, interval="step", **keys), 40, 1)
    assert torch.tensor(found) == pytest.approx(torch.tensor(torch_rates(make, 40)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("epochs, first, second", [(5, 2, 4), (7, 4, 5), (30, 15, 22), (2, 1, 2), (1, 1, 1)])
def test_milestones_are_rounded_to_the_nearest_epoch(epochs, first, second):
    """.5 and .75 of 5 epochs are 2.5 and 3.75; the first is rounded to even, and truncation would give 3."""
    wanted = [0.1 * 0.1 ** ((epoch >= first) + (epoch >= second)) for epoch in range(epochs)]
    assert [rate for rate, _ in planned(schedule_of("multistep"), epochs, 1)] == pytest.approx(wanted)
    if epochs > 2:  # the same with a warm-up of one epoch, which has another code path
        warm = planned(schedule_of("multistep", warmup=1), epochs, 1)
        assert [rate for rate, _ in warm] == pytest.approx([0.05, *wanted[1:]])


def test_a_trapezoid_falls_over_its_last_fifth():
    """Unless `decay` says otherwise, which counts in units and is rounded."""
    assert [rate for rate, _ in planned(schedule_of("trapezoidal"), 10, 1)] == pytest.approx([0.1] * 9 + [0.05])
    longer = [rate for rate, _ in planned(schedule_of("trapezoidal", decay=0.37), 10, 1)]
    assert longer == pytest.approx([0.1] * 7 + [0.075, 0.05, 0.025])


class Rates(pl.Callback):
    """Records the learning rate of every optimizer step."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.found.append(optimizer.param_groups[0]["lr"])


def classifier(schedule, epochs):
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10, SGD, epochs, ["test"], schedule)


def test_a_run_resumed_in_its_warmup_has_the_rates_of_one_that_was_not(tmp_path):
    """10 batches an epoch, every 4 of them one step, the last one of 2: 3 steps an epoch, 12 in all, 5 of warm-up."""
    schedule = schedule_of("cosine", warmup="5steps", min_lr=0.01, interval="step")
    data, options = (batches(160, 16), [batches(16, 16)]), {"epochs": 4, "accumulate_grad_batches": 4}
    first, second, whole = Rates(), Rates(), Rates()

    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "epoch1.ckpt")
            trainer.should_stop = True

    trainer([first, Stop()], **options).fit(classifier(schedule, 4), *data)
    trainer([second], **options).fit(classifier(schedule, 4), *data, ckpt_path=tmp_path / "epoch1.ckpt")
    trainer([whole], **options).fit(classifier(schedule, 4), *data)
    wanted = [closed_form("cosine", 0.1, 0.01, step, 12, 5, 1) for step in range(12)]
    assert whole.found == pytest.approx(wanted, rel=1e-9)
    assert len(first.found) == 3 and first.found + second.found == whole.found


def test_levels_repeat_a_schedule():
    """Two levels of three epochs and a final training of four, with cosine in each or in the last alone."""
    for each in (True, False):
        module = IterativePruningClassifier(
            nn.Linear(2, 2), 2, SGD, 4, ["test"], schedule_of("cosine", interval="epoch"),
            levels=2, per_level=3, each=each,
        )  # fmt: skip
        found = [rate for rate, _ in rates_of(module.schedule(optimizer_of()), 10)]
        level = [closed_form("cosine", 0.1, 0, unit, 3, 0, 1) if each else 0.1 for unit in range(3)]
        final = [closed_form("cosine", 0.1, 0, unit, 4, 0, 1) for unit in range(4)]
        assert found == pytest.approx([*level, *level, *final])


@pytest.mark.parametrize(
    "scale, warmup, wanted",
    [
        (("short", 0.1), 0.05, 0.05),
        (("short", 0.1), 20, 2.0),
        (("short", 0.1), 5, 1.0),
        (("short", 0.1), "500steps", "50steps"),
        (("smoke", 1.0), 5, 0.25),
        (("smoke", 1.0), 0.1, 0.1),
        (("full", 1.0), "500 steps", "500steps"),
    ],
)
def test_warmup_scales_with_the_run(scale, warmup, wanted):
    settings = ScaleSettings(name=scale[0], epochs=scale[1])
    assert schedule_of("cosine", warmup=warmup).at_scale(settings).warmup == wanted


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "5", "5epochs", "-3steps", None, True])
def test_a_warmup_has_one_of_three_notations(wrong):
    with pytest.raises(UserError, match=r"^warmup=.*: must be a fraction of the run in \[0, 1\), epochs from 1 on, or"):
        schedule_of("linear", warmup=wrong)


@pytest.mark.parametrize(
    "words, message",
    [
        (["schedule=cosine", "schedule.warmup=3"], "schedule.warmup=3.0: must be less than the run's 3 epochs"),
        (["schedule=linear", "schedule.min_lr=1"], "schedule.min_lr=1.0: must be at most the learning rate 0.1"),
        (["schedule=constant", "schedule.cycles=2"], "schedule.cycles=2: schedule=constant has none"),
        (["schedule.name=cosin"], "schedule.name=cosin: must be one of constant, cosine, linear"),
        (["schedule._target_=torch.optim.lr_scheduler.ConstantLR"], "schedule.name=multistep: must be another name"),
        (
            ["schedule.name=own", "schedule._target_=math.cos", "schedule.warmup=1"],
            "schedule.warmup=1.0: math.cos does not take it",
        ),
    ],
)
def test_wrong_schedules_are_refused(refusal, words, message):
    line = refusal("trainer.max_epochs=3", *words)
    assert line.startswith(message) and "\n" not in line


def test_a_warmup_in_steps_is_shorter_than_the_run(launch, tmp_path):
    """Their number is known once the images are."""
    status, printed = launch("trainer.max_epochs=3", "schedule=cosine", "schedule.warmup=69steps")
    assert (status, printed) == (2, "schedule.warmup=69steps: must be less than the run's 69 steps\n")
    assert not list(tmp_path.iterdir())
