"""The schema of the configuration: every key of conf/ with its type and its range. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

from ersparse.config import augmentation
from ersparse.config.augmentation import Transforms
from ersparse.config.drawing import check_drawing, is_pattern
from ersparse.config.from_data import read_from_data
from ersparse.config.groups import FunctionSettings, SettingsGroup
from ersparse.config.image_settings import AutoOr, ImageSize, is_bool, is_count
from ersparse.config.options import CONF, check_name, options_of
from ersparse.config.types import (
    CacheFolder,
    Count,
    Folder,
    Fraction,
    In,
    NonNegative,
    NotIdentity,
    Path,
    Positive,
    Seed,
    Since,
)
from ersparse.config.warmup import Warmup, length, scaled
from ersparse.errors import UserError

CropArea = Annotated[float, In("(0, 1]")]  # as a fraction of the image


class ModelSettings(FunctionSettings):
    group: ClassVar[str] = "model"

    width: Annotated[float, In("(0, 64]")]
    init: Literal["default", "layer", "neuron"]
    init_from: Path | None
    init_mismatch: Annotated[Literal["error", "fresh"], Since("error")] = "error"
    narrowed_from: Annotated[Positive | None, NotIdentity] = None
    init_mask: Annotated[Literal["run", "own"], Since("run")] = "run"
    sync_batchnorm: Annotated[bool, NotIdentity]
    args: Annotated[dict[str, Any], Since({})] = Field(default_factory=dict)

    @model_validator(mode="after")
    def own_name_and_arguments(self) -> Self:
        """Check that a network of the user's has a name of its own, and that no argument is given twice.

        Raises:
            UserError: runs of the network would be found under the name of another one, or an argument is given twice.
        """
        check_name(self.group, self.name, self.target)
        for key in sorted(self.args.keys() & self.own_keys()):
            raise UserError(
                f"model.args.{key}={self.args[key]}: is given by model.{key}={self.own_keys()[key]} as well"
            )
        return self

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the network that are no fields: the option's own keys, and `args`."""
        return self.own_keys() | self.args


class DatasetSettings(FunctionSettings):
    group: ClassVar[str] = "dataset"

    root: Annotated[Path, NotIdentity]
    download: Annotated[bool, NotIdentity]
    augment: bool
    validation: Fraction
    num_classes: Annotated[int, In("[2, inf)")]
    images: Annotated[tuple[Count, Count] | None, Field(strict=False), NotIdentity] = None  # training, test
    channels: Count
    image_size: ImageSize
    batch_size: Annotated[int, In("[2, inf)")]
    epochs: Annotated[int, In("[1, inf)"), NotIdentity]  # the default of trainer.max_epochs only
    mean: list[float]
    std: list[Positive]
    crop_padding: Annotated[int, In("[0, inf)")]
    padding_mode: Literal["zero", "reflect"]
    flip: bool
    transforms: Annotated[Transforms, Since("crop")] = "crop"
    crop_scale: Annotated[tuple[CropArea, CropArea], Field(strict=False), Since((0.08, 1.0))] = (0.08, 1.0)
    mixup: Annotated[NonNegative, Since(0.0)] = 0.0
    cutmix: Annotated[NonNegative, Since(0.0)] = 0.0
    resize: Annotated[Count | None, Since(None)] = None
    in_memory: Annotated[bool | str, AutoOr("true or false", is_bool), NotIdentity] = "auto"
    workers: Annotated[int | str, AutoOr("a whole number in [0, inf)", is_count), NotIdentity] = "auto"

    @model_validator(mode="wrap")
    @classmethod
    def nulls_from_data(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Read the keys that are null from the images, if the data set describes them."""
        return read_from_data(values, handler)

    @model_validator(mode="after")
    def own_name(self) -> Self:
        """Check that a data set of the user's has a name of its own."""
        check_name(self.group, self.name, self.target)
        return self

    @model_validator(mode="after")
    def per_channel(self) -> DatasetSettings:
        for key in ("mean", "std"):
            if len(getattr(self, key)) != self.channels:
                raise UserError(
                    f"dataset.{key}={getattr(self, key)}: must have one number for each of "
                    f"dataset.channels={self.channels}"
                )
        if self.resize is not None and self.resize < max(self.size):
            raise UserError(f"dataset.resize={self.resize}: must be at least dataset.image_size={self.image_size}")
        if self.padding_mode == "reflect" and self.crop_padding >= min(self.size):
            raise UserError(
                f"dataset.crop_padding={self.crop_padding}: reflection needs less than "
                f"dataset.image_size={self.image_size}"
            )
        if self.crop_scale[0] > self.crop_scale[1]:
            raise UserError(f"dataset.crop_scale={list(self.crop_scale)}: must be [smallest, largest] area")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else side

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image, (C, height, width)."""
        return (self.channels, *self.size)

    @property
    def geometry(self) -> str:
        """How training images are cropped: crop, resized_crop or none."""
        return augmentation.split(self.transforms)[0] if self.augment else "none"

    @property
    def policy(self) -> str | None:
        """The augmentation policy of training images: randaugment, trivialaugment or None."""
        return augmentation.split(self.transforms)[1] if self.augment else None


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
        return _builtin_target(values, "optimizer", "ersparse.lightning.optimizers.{name}")

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


def _pattern(value: Any) -> Any:
    """Check that a pattern is one; YAML reads 2:4 without quotes as a number of seconds."""
    if value is not None and not is_pattern(value):
        allowed = "N:M with N < M, RxC, or null (in a YAML file in quotes)"
        raise PydanticCustomError("pattern", "must be {allowed}", {"allowed": allowed})
    return value


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
    control: Literal["none", "shuffle", "reinit", "invert", "signs", "magnitudes"]
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
        return _builtin_target(values, "schedule", "ersparse.lightning.schedules.{name}")

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


class ScaleSettings(SettingsGroup):
    name: Literal["full", "short", "smoke"]
    epochs: Annotated[float, In("(0, 1]")]


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


def _builtin_target(values: Any, group: str, pattern: str) -> Any:
    """Return `values` with the `_target_` of a built-in option, if they have none.

    Raises:
        UserError: the name is neither that of an option nor accompanied by a `_target_` of its own, or it is that of
            another option, whose runs would have the same hash.
    """
    if not isinstance(values, Mapping) or not isinstance(name := values.get("name"), str):
        return values
    own = pattern.format(name=name)
    target = values.get("_target_") or own
    if target == own and name not in options_of(group):
        raise UserError(f"{group}.name={name}: must be one of {', '.join(options_of(group))}")
    if target != own and (CONF / group / f"{name}.yaml").is_file():
        raise UserError(f"{group}.name={name}: must be another name with {group}._target_={target}")
    return {**values, "_target_": target}
