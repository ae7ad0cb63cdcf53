"""The keys of group `dataset`, and the types of those that say how images are sized and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, model_validator
from pydantic_core import PydanticCustomError

from ersparse.config import augmentation
from ersparse.config.augmentation import Transforms
from ersparse.config.from_data import read_from_data
from ersparse.config.groups import FunctionSettings
from ersparse.config.options import check_name
from ersparse.config.types import Count, Fraction, In, NonNegative, NotIdentity, Path, Positive, Since
from ersparse.errors import UserError


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_bool(value: Any) -> bool:
    """Return whether a value is true or false."""
    return isinstance(value, bool)


def AutoOr(allowed: str, accepts: Callable[[Any], bool]) -> BeforeValidator:
    """Return a validator for "auto" or another value.

    Args:
        allowed: what other values must be, in words.
        accepts: whether a value is one of them.
    """

    def check(value: Any) -> Any:
        if value != "auto" and not accepts(value):
            raise PydanticCustomError("auto", "must be auto, or {allowed}", {"allowed": allowed})
        return value

    return BeforeValidator(check)


def _image_size(value: Any) -> Any:
    """Check a side or a pair; a pair of equal sides becomes a side, so that both have one hash."""
    pair = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(pair) != 2 or not all(is_count(side) and side > 0 for side in pair):
        raise PydanticCustomError("image_size", "must lie in [1, inf), or be [height, width]")
    return pair[0] if pair[0] == pair[1] else (pair[0], pair[1])


ImageSize = Annotated[int | tuple[int, int], BeforeValidator(_image_size)]


CropArea = Annotated[float, In("(0, 1]")]  # as a fraction of the image


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
