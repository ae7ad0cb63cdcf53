"""Which ways of drawing masks and of repairing them go together. Imports no torch."""

from __future__ import annotations

import re

from ersparse.errors import UserError

PATTERN = re.compile(r"[1-9][0-9]*[:x][1-9][0-9]*")


def is_pattern(text: object) -> bool:
    """Return whether a text is a pattern: "N:M" with N < M, or "RxC" with more than one weight in a block."""
    if not (isinstance(text, str) and PATTERN.fullmatch(text)):
        return False
    first, second = map(int, text.replace("x", ":").split(":"))
    return first < second if ":" in text else first * second > 1


def check_drawing(sampling: str, flow: object, prefix: str = "", pattern: str | None = None) -> None:
    """Check that masks that are drawn in a way can be repaired in another.

    Args:
        sampling: how masks are drawn.
        flow: the flow repair, by name or as a function.
        prefix: what precedes the names of the keys in a message.
        pattern: the pattern of the masks.

    Raises:
        UserError: they cannot.
    """
    if sampling == "exact" and flow == "resample":
        raise UserError(
            f"{prefix}sampling={sampling}: must be bernoulli with {prefix}flow=resample, which conditions independent "
            "draws"
        )
    if sampling in ("fan_in", "ramanujan") and flow not in ("none", "move"):
        raise UserError(
            f"{prefix}sampling={sampling}: needs {prefix}flow=move or none; other repairs change the number of inputs "
            "of single output channels"
        )
    if pattern is not None and ":" in pattern and flow not in ("none", "move"):
        raise UserError(f"{prefix}pattern={pattern}: needs {prefix}flow=move or none; other repairs do not keep it")
