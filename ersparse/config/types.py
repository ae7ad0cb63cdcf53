"""Types of configuration values: ranges, and marks that say what enters the hash of a run. Imports no torch.

A setting marked `NotIdentity` decides where or how a run happens but not its results, and is left out of the run's hash
(`ersparse.config.groups.identity_fields`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, ValidationError, WrapValidator
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
