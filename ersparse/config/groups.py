"""Groups of settings: their base classes, validation with one-line errors, and their part of a run's identity.

Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from ersparse.config.types import plain, spelled
from ersparse.errors import UserError
from ersparse.locate import locate


class SettingsGroup(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def spelled_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Return the number or boolean that a text in quotes spells."""
        return spelled(value, cls.model_fields[str(info.field_name)].annotation) if isinstance(value, str) else value


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


def identity_fields(group: BaseModel) -> dict[str, Any]:
    """Return the fields of a group that decide results; the name stands for `_target_`, which may move with the code.

    Fields marked `NotIdentity`, fields marked `Since` that have their default, and keys of an option's own that its
    function names in the attribute `not_identity` are left out. A group within a group is a mapping of its own identity
    fields.
    """
    found = {}
    for key, field in type(group).model_fields.items():
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(group, key)
        value = identity_fields(value) if isinstance(value, SettingsGroup) else value
        later = "since" in marks and value == marks["since"]
        if key != "target" and marks.get("identity", True) and not later:
            found[key] = value
    left_out = getattr(group.resolve(), "not_identity", ()) if isinstance(group, FunctionSettings) else ()
    return found | {key: value for key, value in (group.model_extra or {}).items() if key not in left_out}


def build(group: type[G], values: Mapping[str, Any], prefix: str = "") -> G:
    """Check `values` against the schema `group`, and return the settings.

    Raises:
        UserError: one line with the first offending key, its value, and what is allowed.
    """
    try:
        return group.model_validate(plain(values))
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
    if error["type"] == "bool_type":
        return f"{key}={_shown(value)}: must be a valid boolean, true or false"
    allowed = error["msg"].replace("Input should", "must").replace("String should", "must")
    return f"{key}={_shown(value)}: {allowed}{_quotes_hint(value)}"


def _quotes_hint(value: Any) -> str:
    """Return an addition to the error about a text with commas, which may have been meant as the values of a sweep."""
    return "; several values for -m stand without quotes" if isinstance(value, str) and "," in value else ""


def _shown(value: Any) -> str:
    """Return a value as YAML and the command line write it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
