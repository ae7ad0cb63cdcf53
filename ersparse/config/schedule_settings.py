"""The keys of group `schedule`, and of `scale`, which shortens it. Imports no torch."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, ClassVar, Literal

from pydantic import model_validator

from ersparse.config.builtin_target import builtin_target
from ersparse.config.groups import FunctionSettings, SettingsGroup
from ersparse.config.types import Count, In, NonNegative, Since
from ersparse.config.warmup import Warmup, length, scaled
from ersparse.errors import UserError


class ScaleSettings(SettingsGroup):
    name: Literal["full", "short", "smoke"]
    epochs: Annotated[float, In("(0, 1]")]


class ScheduleSettings(FunctionSettings):
    """The schedule of the learning rate; `warmup` is a length as in `ersparse.config.warmup`."""

    group: ClassVar[str] = "schedule"

    warmup: Annotated[Warmup, Since(0.0)] = 0.0
    min_lr: Annotated[NonNegative, Since(0.0)] = 0.0
    cycles: Annotated[Count, Since(1)] = 1
    interval: Annotated[Literal["epoch", "step"], Since("epoch")] = "epoch"

    @model_validator(mode="before")
    @classmethod
    def target_of_name(cls, values: Any) -> Any:
        """Check built-in names."""
        return builtin_target(values, "schedule", "ersparse.lightning.schedules.{name}")

    @model_validator(mode="after")
    def keys_apply(self) -> ScheduleSettings:
        """Check that the function takes the keys that are set.

        Raises:
            UserError: it has no argument `timeline`, or is `constant`, which neither falls nor repeats.
        """
        for key in self.changed():
            if "timeline" not in inspect.signature(self.resolve()).parameters:
                raise UserError(
                    f"schedule.{key}={getattr(self, key)}: {self.target} does not take it, it has no argument timeline"
                )
            if self.name == "constant" and key in ("min_lr", "cycles"):
                raise UserError(f"schedule.{key}={getattr(self, key)}: schedule=constant has none")
        return self

    def changed(self) -> list[str]:
        """Return those of `warmup`, `min_lr`, `cycles` and `interval` that differ from a plain schedule."""
        plain = {"warmup": 0.0, "min_lr": 0.0, "cycles": 1, "interval": "epoch"}
        return [key for key, value in plain.items() if getattr(self, key) != value]

    def is_plain(self) -> bool:
        """Return whether there is neither warm-up nor a lower bound nor cycles, and the unit is an epoch."""
        return not self.changed()

    def is_plain_multistep(self) -> bool:
        """Return whether the schedule is the multi-step one with none of its further keys set."""
        return self.name == "multistep" and self.is_plain()

    def counts_steps(self) -> bool:
        """Return whether the number of optimizer steps in an epoch matters."""
        return self.interval == "step" or length(self.warmup).unit == "step"

    def at_scale(self, scale: ScaleSettings) -> ScheduleSettings:
        """Return the schedule of a run at this scale; at smoke scale a warm-up is at most a quarter of the run."""
        warmup = self.warmup
        if scale.name == "smoke" and length(warmup).unit != "run":
            warmup = 0.25
        return self.model_copy(update={"warmup": scaled(warmup, scale.epochs)})


MULTISTEP = {"_target_": "ersparse.lightning.schedules.multistep", "name": "multistep"}
