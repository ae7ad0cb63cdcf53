"""Options of hydra/sweeper=optuna."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import optuna
from pydantic import ValidationInfo, field_validator

from ersparse.config.groups import SettingsGroup
from ersparse.config.types import Count
from ersparse.errors import UserError
from ersparse.locate import locate

PREFIX = "hydra.sweeper."
Direction = Literal["maximize", "minimize"]


class SearchOptions(SettingsGroup):
    """The keys of conf/hydra/sweeper/optuna.yaml, which explains each of them."""

    n_trials: Count
    n_jobs: Count | None
    objective: list[str]
    direction: list[Direction]
    sampler: dict[str, Any]
    pruner: dict[str, Any]
    storage: str | None

    @field_validator("objective", "direction", mode="before")
    @classmethod
    def as_list(cls, value: Any) -> Any:
        """Accept one in place of a list."""
        return value if isinstance(value, list) else [value]

    @field_validator("direction")
    @classmethod
    def one_for_each_objective(cls, value: list[str], info: ValidationInfo) -> list[str]:
        """Check that there is a direction for each objective."""
        objectives = info.data.get("objective", value)
        if not objectives or len(value) != len(objectives):
            raise UserError(f"{PREFIX}direction={value}: must have one for each of {PREFIX}objective={objectives}")
        return value

    def make_sampler(self) -> optuna.samplers.BaseSampler:
        """Return the sampler that proposes trials.

        Raises:
            UserError: `_target_` names none, or does not take a key.
        """
        sampler: optuna.samplers.BaseSampler = _made("sampler", self.sampler, optuna.samplers.BaseSampler)
        return sampler

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Return the pruner that stops trials.

        Raises:
            UserError: `_target_` names none, does not take a key, or there are several objectives.
        """
        pruner: optuna.pruners.BasePruner = _made("pruner", self.pruner, optuna.pruners.BasePruner)
        if len(self.objective) > 1 and not isinstance(pruner, optuna.pruners.NopPruner):
            raise UserError(f"{PREFIX}pruner={self.pruner.get('_target_')}: must be NopPruner with several objectives")
        return pruner


def _made(key: str, values: Mapping[str, Any], base: type) -> Any:
    """Return an instance of the class that `values` name, with the other values as arguments."""
    arguments = dict(values)
    target = str(arguments.pop("_target_", None))
    kind = locate(target) if "." in target else None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise UserError(f"{PREFIX}{key}._target_={target}: must name a class such as optuna.{key}s.{_EXAMPLES[key]}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return kind(**arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"{PREFIX}{key}={target}: {' '.join(str(error).split())}") from None


_EXAMPLES = {"sampler": "TPESampler", "pruner": "MedianPruner"}
