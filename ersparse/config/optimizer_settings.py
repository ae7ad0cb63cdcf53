"""The keys of group `optimizer`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from ersparse.config.builtin_target import builtin_target
from ersparse.config.groups import FunctionSettings, SettingsGroup
from ersparse.config.types import Fraction, In, NonNegative, Positive, Since
from ersparse.errors import UserError


class HamSettings(SettingsGroup):
    """Hyperbolic-aware minimisation: `ersparse.sparse.hyperbolic.hyperbolic_step` after each step of the optimizer."""

    alpha: Annotated[NonNegative, Since(0.0)] = 0.0
    beta: Annotated[NonNegative, Since(0.0)] = 0.0


class OptimizerSettings(FunctionSettings):
    group: ClassVar[str] = "optimizer"

    lr: Positive
    momentum: Fraction
    weight_decay: NonNegative
    nesterov: bool
    milestones: list[Annotated[float, In("(0, 1)")]]
    gamma: Annotated[float, In("(0, 1]")]
    no_decay: Annotated[list[str], Since([])] = Field(default_factory=list)
    layers: Annotated[dict[str, dict[str, Any]] | None, Since(None)] = None
    args: Annotated[dict[str, Any] | None, Since(None)] = None
    ham: Annotated[HamSettings, Since({})] = Field(default_factory=HamSettings)

    @model_validator(mode="before")
    @classmethod
    def target_of_name(cls, values: Any) -> Any:
        """Complete a configuration that was written before optimizers had a `_target_`, and check built-in names."""
        return builtin_target(values, "optimizer", "ersparse.lightning.optimizers.{name}")

    @model_validator(mode="after")
    def rates_of_layers(self) -> OptimizerSettings:
        for pattern, keys in (self.layers or {}).items():
            for key, value in keys.items():
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                least = {"lr": "(0, inf)", "weight_decay": "[0, inf)"}.get(key)
                if least and not (number and (value > 0 or (value == 0 and key != "lr"))):
                    raise UserError(f"optimizer.layers.{pattern}.{key}={value}: must lie in {least}")
        return self

    @model_validator(mode="after")
    def nesterov_needs_momentum(self) -> OptimizerSettings:
        if self.nesterov and self.momentum == 0:
            raise UserError("optimizer.nesterov=true: needs optimizer.momentum above 0")
        return self
