"""Types of configuration values: ranges, and marks that say what enters the hash of a run. Imports no torch.

A setting marked `NotIdentity` decides where or how a run happens but not its results, and is left out of the run's hash
(`ersparse.config.groups.identity_fields`).
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

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
        except ValidationError as error:
            if error.errors()[0]["type"].startswith("int"):
                raise PydanticCustomError("interval", f"must lie in {interval}, and be an integer") from None
            number = math.nan
        above = number > low or (interval[0] == "[" and number == low)
        below = number < high or (interval[-1] == "]" and number == high)
        if not (above and below):
            raise PydanticCustomError("interval", "must lie in {interval}", {"interval": interval})
        return number

    return WrapValidator(check)


def _path(value: str) -> str:
    """Return a path with `~` replaced by the home folder, unless the operating system cannot have such a path."""
    path = os.path.expanduser(value)
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise PydanticCustomError("path", "{reason}", {"reason": str(error.strerror).lower()}) from None
    except ValueError:
        raise PydanticCustomError("path", "must have no null character", {}) from None
    return path


def _not_empty(value: str) -> str:
    if not value:
        raise PydanticCustomError("path", "must name a folder", {})
    return value


def plain(value: Any) -> Any:
    """Return a configuration value as YAML has it: numbers of NumPy and PyTorch, paths and sequences are converted."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value


def spelled(text: str, annotation: Any) -> Any:
    """Return the number or boolean that a text spells, if a key of this type takes no texts.

    Hydra reads quoted values and environment variables as texts, and converts them where a key has a type.
    """
    types = set(get_args(annotation)) or {annotation}
    types = {get_args(item)[0] if get_origin(item) is Annotated else item for item in types} - {NoneType}
    try:
        if types == {bool}:
            return {"true": True, "false": False}.get(text.lower(), text)
        return types.pop()(text) if types in ({int}, {float}) else text
    except ValueError:
        return text


Path = Annotated[str, AfterValidator(_path)]
Folder = Annotated[str, AfterValidator(_not_empty), AfterValidator(_path)]
CacheFolder = Annotated[str, AfterValidator(_not_empty)]
Fraction = Annotated[float, In("[0, 1)")]
Positive = Annotated[float, In("(0, inf)")]
NonNegative = Annotated[float, In("[0, inf)")]
Count = Annotated[int, In("[1, inf)")]
Seed = Annotated[int, In("[0, 9223372036854775807]")]
