"""The keys of group `sparsity`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ersparse.config.drawing import check_drawing, is_pattern
from ersparse.config.groups import FunctionSettings, SettingsGroup
from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.config.options import check_name
from ersparse.config.types import Count, Fraction, In, NonNegative, NotIdentity, Path, Positive, Since
from ersparse.errors import UserError

FLOWS = ("none", "add", "move", "resample", "released")


def _flow(value: str) -> str:
    """Check that a flow repair is a built-in one or an import path."""
    if value not in FLOWS and "." not in value:
        allowed = f"{', '.join(FLOWS)}, or the import path of a repair"
        raise PydanticCustomError("flow", "must be one of {allowed}", {"allowed": allowed})
    return value


def _pattern(value: Any) -> Any:
    """Check that a pattern is one; YAML reads 2:4 without quotes as a number of seconds."""
    if value is not None and not is_pattern(value):
        allowed = "N:M with N < M, RxC, or null (in a YAML file in quotes)"
        raise PydanticCustomError("pattern", "must be {allowed}", {"allowed": allowed})
    return value


class SourceRunSettings(SettingsGroup):
    """The recipe of the run whose densities are used; `method` stays a mapping, as in `Settings`."""

    method: dict[str, Any]
    optimizer: OptimizerSettings
    batch_size: Annotated[int, In("[2, inf)")]


class SparsitySettings(FunctionSettings):
    group: ClassVar[str] = "sparsity"

    level: Fraction
    budget: Count | None
    sampling: Literal["bernoulli", "exact", "fan_in", "ramanujan"]
    pattern: Annotated[str | None, BeforeValidator(_pattern), Since(None)] = None
    flow: Annotated[str, AfterValidator(_flow)]
    strict: Annotated[bool, Since(False)] = False
    include: Annotated[list[str] | None, Since(None)] = None
    exclude: Annotated[list[str], Since([])] = Field(default_factory=list)
    layers: Annotated[dict[str, Annotated[float, In("[0, 1]")]] | None, Since(None)] = None
    last_dense: Annotated[bool, Since(False)] = False
    floor: NonNegative
    first_dense: bool
    redistribute: Literal["exact", "none"]
    file: Path | None
    keep_mask: bool
    images: Count
    images_per_class: Count
    temperature: Positive
    fresh_classifier: Annotated[bool, Since(False)]
    rounds: Count
    score_dtype: Literal["float32", "float64"]
    make: Annotated[bool, NotIdentity]
    allow_collapse: Annotated[bool, NotIdentity]
    control: Literal["none", "shuffle", "reinit", "invert", "signs", "magnitudes", "permute"]
    run: SourceRunSettings | None = None

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned: `dense`, or `narrow`, which has fewer channels instead."""
        return self.name in ("dense", "narrow")

    @model_validator(mode="after")
    def own_name(self) -> Self:
        """Check that a density or pruner of the user's has a name of its own."""
        check_name(self.group, self.name, self.target)
        return self

    @model_validator(mode="after")
    def compatible(self) -> SparsitySettings:
        check_drawing(self.sampling, self.flow, "sparsity.", self.pattern)
        if self.name == "file" and self.file is None:
            raise UserError(
                "sparsity.file=null: must name a file of layer densities or a run folder with sparsity=file"
            )
        return self
