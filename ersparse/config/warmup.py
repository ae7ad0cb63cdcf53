"""Lengths of a warm-up: 0.05 (a fraction of the run), 5 (epochs) or 500steps (of the optimizer). Imports no torch."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

ALLOWED = "a fraction of the run in [0, 1), epochs from 1 on, or optimizer steps as in 500steps"


class Length(NamedTuple):
    """A length, and its unit: the "run", an "epoch" or an optimizer "step"."""

    value: float
    unit: Literal["run", "epoch", "step"]


def length(value: float | str) -> Length:
    """Return the length that a value of `schedule.warmup` denotes."""
    if isinstance(value, str):
        return Length(int(value.removesuffix("steps")), "step")
    return Length(value, "run" if value < 1 else "epoch")


def scaled(value: float | str, factor: float) -> float | str:
    """Return a warm-up for a run of `factor` times the length: fractions stay, epochs and steps shrink."""
    whole = length(value)
    if whole.unit == "run" or factor == 1:
        return value
    if whole.unit == "step":
        return f"{max(1, round(whole.value * factor))}steps"
    return max(1.0, whole.value * factor)  # below 1 it would denote a fraction


def _check(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_steps = isinstance(value, str) and re.fullmatch(r"\d+ ?steps", value)
    if is_number and 0 <= value < math.inf:
        return float(value)
    if is_steps:
        return value.replace(" ", "")
    raise PydanticCustomError("warmup", "must be {allowed}", {"allowed": ALLOWED})


Warmup = Annotated[float | str, BeforeValidator(_check)]
