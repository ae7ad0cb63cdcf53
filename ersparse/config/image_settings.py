"""Types of the values that say how images are sized and read. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError


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
