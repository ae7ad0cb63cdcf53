"""The schema of the configuration: every key of conf/ with its type and its range. Imports no torch.

A setting marked `NotIdentity` decides where or how a run happens but not its results, and is left out of the run's hash
(`identity_fields`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from ersparse.config.options import options_of
from ersparse.errors import UserError
from ersparse.locate import locate

NotIdentity = Field(json_schema_extra={"identity": False})


def Since(default: Any) -> Any:
    """Mark a key that was added after runs had been hashed: while it has its default, it is left out of the hash."""
    return Field(json_schema_extra={"since": default})


def In(interval: str) -> WrapValidator:
    """Return a validator for numbers inside `interval`, written as in mathematics: "[0, 1)". It rejects NaN."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            number = handler(value)
        except ValidationError:
            number = math.nan
        above = number > low or (interval[0] == "[" and number == low)
        below = number < high or (interval[-1] == "]" and number == high)
        if not (above and below):
            raise PydanticCustomError("interval", "must lie in {interval}", {"interval": interval})
        return number

    return WrapValidator(check)


Fraction = Annotated[float, In("[0, 1)")]
Positive = Annotated[float, In("(0, inf)")]
NonNegative = Annotated[float, In("[0, inf)")]
Count = Annotated[int, In("[1, inf)")]
Seed = Annotated[int, In("[0, 9223372036854775807]")]


class SettingsGroup(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


G = TypeVar("G", bound=SettingsGroup)


class TargetedSettings(SettingsGroup):
    """A group whose `_target_` names a function or class, as `package.module.name`."""

    target: str = Field(alias="_target_")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]  # part of the run folder's name

    def resolve(self) -> Any:
        """Import and return the object that `_target_` names."""
        return locate(self.target)


class FunctionSettings(TargetedSettings):
    """A group whose option names a function. Keys that are no fields are passed to it as keyword arguments.

    Attributes:
        group: name of the group, for messages.
    """

    model_config = ConfigDict(extra="allow")
    group: ClassVar[str]

    @model_validator(mode="after")
    def own_keys_are_arguments(self) -> Self:
        """Check that every key is a field or an argument of the function.

        Raises:
            UserError: a key is neither.
        """
        arguments = inspect.signature(self.resolve()).parameters if self.model_extra else {}
        takes_any = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
        for key, value in (self.model_extra or {}).items():
            if key not in arguments and not takes_any:
                raise UserError(f"{self.group}.{key}={_shown(value)}: no such key; {self.target} does not take it")
        return self

    def own_keys(self) -> dict[str, Any]:
        """Return the keys that are no fields, with their values."""
        return dict(self.model_extra or {})


class ModelSettings(FunctionSettings):
    group: ClassVar[str] = "model"

    width: Annotated[float, In("(0, 64]")]
    init: Literal["default", "layer", "neuron"]
    init_from: str | None
    sync_batchnorm: Annotated[bool, NotIdentity]


class DatasetSettings(FunctionSettings):
    group: ClassVar[str] = "dataset"

    root: Annotated[str, NotIdentity]
    download: Annotated[bool, NotIdentity]
    augment: bool
    validation: Fraction
    num_classes: Annotated[int, In("[2, inf)")]
    images: Annotated[tuple[Count, Count] | None, Field(strict=False), NotIdentity] = None  # training, test
    channels: Count
    image_size: Count
    batch_size: Annotated[int, In("[2, inf)")]
    epochs: Annotated[int, In("[1, inf)"), NotIdentity]  # the default of trainer.max_epochs only
    mean: list[float]
    std: list[Positive]
    crop_padding: Annotated[int, In("[0, inf)")]
    padding_mode: Literal["zero", "reflect"]
    flip: bool

    @model_validator(mode="after")
    def per_channel(self) -> DatasetSettings:
        for key in ("mean", "std"):
            if len(getattr(self, key)) != self.channels:
                raise UserError(
                    f"dataset.{key}={getattr(self, key)}: must have one number for each of "
                    f"dataset.channels={self.channels}"
                )
        if self.padding_mode == "reflect" and self.crop_padding >= self.image_size:
            raise UserError(
                f"dataset.crop_padding={self.crop_padding}: reflection needs less than "
                f"dataset.image_size={self.image_size}"
            )
        return self


class OptimizerSettings(FunctionSettings):
    group: ClassVar[str] = "optimizer"

    lr: Positive
    momentum: Fraction
    weight_decay: NonNegative
    nesterov: bool
    milestones: list[Annotated[float, In("(0, 1)")]]
    gamma: Annotated[float, In("(0, 1]")]

    @model_validator(mode="before")
    @classmethod
    def target_of_name(cls, values: Any) -> Any:
        """Complete a configuration that was written before optimizers had a `_target_`, and check built-in names."""
        return _builtin_target(values, "optimizer", "ersparse.lightning.optimizers.{name}")

    @model_validator(mode="after")
    def nesterov_needs_momentum(self) -> OptimizerSettings:
        if self.nesterov and self.momentum == 0:
            raise UserError("optimizer.nesterov=true: needs optimizer.momentum above 0")
        return self


class SourceRunSettings(SettingsGroup):
    """The recipe of the run whose densities are used; `method` stays a mapping, as in `Settings`."""

    method: dict[str, Any]
    optimizer: OptimizerSettings
    batch_size: Annotated[int, In("[2, inf)")]


FLOWS = ("none", "add", "move", "resample", "released")


def _flow(value: str) -> str:
    """Check that a flow repair is a built-in one or an import path."""
    if value not in FLOWS and "." not in value:
        allowed = f"{', '.join(FLOWS)}, or the import path of a repair"
        raise PydanticCustomError("flow", "must be one of {allowed}", {"allowed": allowed})
    return value


class SparsitySettings(FunctionSettings):
    group: ClassVar[str] = "sparsity"

    level: Fraction
    budget: Count | None
    sampling: Literal["bernoulli", "exact"]
    flow: Annotated[str, AfterValidator(_flow)]
    floor: NonNegative
    first_dense: bool
    redistribute: Literal["exact", "none"]
    file: str | None
    keep_mask: bool
    images: Count
    images_per_class: Count
    temperature: Positive
    fresh_classifier: Annotated[bool, Since(False)]
    rounds: Count
    score_dtype: Literal["float32", "float64"]
    make: Annotated[bool, NotIdentity]
    allow_collapse: Annotated[bool, NotIdentity]
    control: Literal["none", "shuffle", "reinit", "invert"]
    run: SourceRunSettings | None = None

    @model_validator(mode="after")
    def compatible(self) -> SparsitySettings:
        if self.flow == "resample" and self.sampling == "exact":
            raise UserError(
                "sparsity.sampling=exact: must be bernoulli with sparsity.flow=resample, "
                "which conditions independent draws"
            )
        if self.name == "file" and self.file is None:
            raise UserError(
                "sparsity.file=null: must name a file of layer densities or a run folder with sparsity=file"
            )
        return self


class TrainerSettings(SettingsGroup):
    max_epochs: Count
    accelerator: Annotated[Literal["auto", "cpu", "gpu"], NotIdentity]
    devices: Annotated[int, In("[1, inf)"), NotIdentity]
    num_nodes: Annotated[int, In("[1, inf)"), NotIdentity]
    precision: Annotated[Literal["auto", "32-true", "bf16-mixed", "16-mixed"], NotIdentity]
    execution: Annotated[Literal["auto", "masked", "compiled", "sparse"], NotIdentity]
    detect_anomaly: Annotated[bool, NotIdentity]

    @property
    def ranks(self) -> int:
        """The number of processes that train together."""
        return self.devices * self.num_nodes


class ScheduleSettings(FunctionSettings):
    """The schedule of the learning rate."""

    group: ClassVar[str] = "schedule"


MULTISTEP = {"_target_": "ersparse.lightning.schedules.multistep", "name": "multistep"}


class ScaleSettings(SettingsGroup):
    name: Literal["full", "short", "smoke"]
    epochs: Annotated[float, In("(0, 1]")]


class SeedSettings(SettingsGroup):
    mask: Seed | None
    init: Seed | None
    data: Seed | None


class PathSettings(SettingsGroup):
    root: str
    cache: str


class Settings(SettingsGroup):
    """One run, complete and checked.

    `method` and `logger` stay mappings here: `ersparse.methods.base` and `ersparse.runs.loggers.base` build them.
    """

    model: ModelSettings
    dataset: DatasetSettings
    sparsity: SparsitySettings
    method: dict[str, Any]
    trainer: TrainerSettings
    logger: Annotated[dict[str, Any], NotIdentity]
    optimizer: OptimizerSettings
    schedule: ScheduleSettings = Field(default_factory=lambda: ScheduleSettings.model_validate(MULTISTEP))
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

    def epochs(self) -> int:
        """Return the epochs of a training run without levels, at this scale; never less than one."""
        return max(1, round(self.trainer.max_epochs * self.scale.epochs))


def _builtin_target(values: Any, group: str, pattern: str) -> Any:
    """Return `values` with the `_target_` of a built-in option, if they have none.

    Raises:
        UserError: the name is neither that of an option nor accompanied by a `_target_` of its own.
    """
    if not isinstance(values, Mapping) or not isinstance(name := values.get("name"), str):
        return values
    target = values.get("_target_") or pattern.format(name=name)
    if target == pattern.format(name=name) and name not in options_of(group):
        raise UserError(f"{group}.name={name}: must be one of {', '.join(options_of(group))}")
    return {**values, "_target_": target}


def identity_fields(group: BaseModel) -> dict[str, Any]:
    """Return the fields of a group that decide results; the name stands for `_target_`, which may move with the code.

    Fields marked `NotIdentity`, and fields marked `Since` that have their default, are left out.
    """
    found = {}
    for key, field in type(group).model_fields.items():
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(group, key)
        later = "since" in marks and value == marks["since"]
        if key != "target" and marks.get("identity", True) and not later:
            found[key] = value
    return found | (group.model_extra or {})


def build(group: type[G], values: Mapping[str, Any], prefix: str = "") -> G:
    """Check `values` against the schema `group`, and return the settings.

    Raises:
        UserError: one line with the first offending key, its value, and what is allowed.
    """
    try:
        return group.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        words = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
        key = prefix + ".".join(words)
        raise UserError(_explain(key, first)) from None


def _explain(key: str, error: Any) -> str:
    value = error["input"]
    if error["type"] == "missing":
        return f"{key}: is missing; conf/ gives it in the option of its group"
    if error["type"] == "extra_forbidden":
        return f"{key}={_shown(value)}: no such key"
    if error["type"] == "literal_error":
        allowed = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "")
        return f"{key}={_shown(value)}: must be one of {allowed}"
    if error["type"] == "value_error":  # a UserError raised by a validator across keys
        return str(error["ctx"]["error"])
    return f"{key}={_shown(value)}: {error['msg'].replace('Input should be', 'must be')}"


def _shown(value: Any) -> str:
    """Return a value as YAML and the command line write it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
