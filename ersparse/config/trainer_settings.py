"""The keys of groups `trainer` and `loss`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ersparse.config.groups import SettingsGroup
from ersparse.config.types import Count, Fraction, In, NonNegative, NotIdentity, Positive, Since


class TrainerSettings(SettingsGroup):
    max_epochs: Count
    accelerator: Annotated[Literal["auto", "cpu", "gpu", "mps"], NotIdentity]
    devices: Annotated[int, In("[1, inf)"), NotIdentity]
    num_nodes: Annotated[int, In("[1, inf)"), NotIdentity]
    precision: Annotated[Literal["auto", "32-true", "bf16-mixed", "16-mixed"], NotIdentity]
    execution: Annotated[Literal["auto", "masked", "compiled", "graphed", "sparse"], NotIdentity]
    detect_anomaly: Annotated[bool, NotIdentity]
    clip_norm: Annotated[Positive | None, Since(None)] = None
    accumulate: Annotated[Count, Since(1)] = 1
    ema: Annotated[Annotated[float, In("(0, 1)")] | None, Since(None)] = None
    swa: Annotated[Fraction | None, Since(None)] = None
    early_stopping: Annotated[Count | None, Since(None)] = None
    keep_best: Annotated[bool, NotIdentity] = False
    metrics: Annotated[list[Literal["top5", "ece", "per_class"]], NotIdentity] = Field(default_factory=list)
    deterministic: Annotated[bool, NotIdentity] = False
    tf32: Annotated[bool, NotIdentity] = True
    profile: Annotated[bool, NotIdentity] = False
    checkpoint_every: Annotated[NonNegative, NotIdentity] = 0.0

    @property
    def ranks(self) -> int:
        """The number of processes that train together."""
        return self.devices * self.num_nodes


class LossSettings(SettingsGroup):
    """The training loss, cross-entropy."""

    label_smoothing: Annotated[Fraction, Since(0.0)] = 0.0
