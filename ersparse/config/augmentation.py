"""The values of `dataset.transforms`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

GEOMETRIES = ("crop", "resized_crop", "none")
POLICIES = ("randaugment", "trivialaugment")


def split(transforms: str | list[str]) -> tuple[str, str | None]:
    """Return how images are cropped, one of `GEOMETRIES`, and the augmentation policy, one of `POLICIES` or None."""
    names = [transforms] if isinstance(transforms, str) else list(transforms)
    policy = names.pop() if names[-1] in POLICIES else None
    return (names[0] if names else "crop"), policy


def _canonical(value: Any) -> Any:
    """Check the names and their order, and return the shortest form, so that equal transformations have one hash."""
    names = list(value) if isinstance(value, list | tuple) else [value]
    crops, policies = ([name for name in names if name in allowed] for allowed in (GEOMETRIES, POLICIES))
    if not names or names != crops + policies or len(crops) > 1 or len(policies) > 1:
        allowed = f"{', '.join(GEOMETRIES + POLICIES)}, or a list of one of the first three and one of the last two"
        raise PydanticCustomError("transforms", "must be one of {allowed}", {"allowed": allowed})
    shortest = [name for name in names if name != "crop" or not policies]
    return shortest[0] if len(shortest) == 1 else shortest


Transforms = Annotated[str | list[str], BeforeValidator(_canonical)]
