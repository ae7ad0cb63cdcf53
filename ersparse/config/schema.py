"""The schema of the configuration: every key of conf/ with its type and its range. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import SettingsGroup
from ersparse.config.model_settings import ModelSettings
from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.config.schedule_settings import MULTISTEP, ScaleSettings, ScheduleSettings
from ersparse.config.sparsity_settings import SparsitySettings
from ersparse.config.trainer_settings import LossSettings, TrainerSettings
from ersparse.config.types import CacheFolder, Folder, NotIdentity, Seed


class SeedSettings(SettingsGroup):
    mask: Seed | None
    init: Seed | None
    data: Seed | None


class PathSettings(SettingsGroup):
    root: Folder
    cache: CacheFolder


class Settings(SettingsGroup):
    """One run, complete and checked.

    `method` and `logger` stay mappings here: `ersparse.methods.base` and `ersparse.runs.loggers.select` build them.
    """

    model: ModelSettings
    dataset: DatasetSettings
    sparsity: SparsitySettings
    method: dict[str, Any]
    trainer: TrainerSettings
    logger: Annotated[dict[str, Any], NotIdentity]
    optimizer: OptimizerSettings
    schedule: ScheduleSettings = Field(default_factory=lambda: ScheduleSettings.model_validate(MULTISTEP))
    loss: LossSettings = Field(default_factory=LossSettings)
    scale: ScaleSettings
    variant: Literal["paper", "code"]
    experiment: Annotated[str | None, NotIdentity]
    seed: Annotated[Seed, NotIdentity]
    seeds: SeedSettings
    paths: Annotated[PathSettings, NotIdentity]
    fresh: Annotated[bool, NotIdentity]
    dry_run: Annotated[bool, NotIdentity]

    def seed_of(self, what: Literal["mask", "init", "data"]) -> int:
        """Return the seed of one kind of random choice: `seeds.<what>` if it is set, else the run's."""
        own: int | None = getattr(self.seeds, what)
        return self.seed if own is None else own

    def schedule_at_scale(self) -> ScheduleSettings:
        """Return the settings of the schedule at the scale of the run."""
        return self.schedule.at_scale(self.scale)

    def epochs(self) -> int:
        """Return the epochs of a training run without levels, at this scale; never less than one."""
        return max(1, round(self.trainer.max_epochs * self.scale.epochs))
