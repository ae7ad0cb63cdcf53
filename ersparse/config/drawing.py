"""Which ways of drawing masks and of repairing them go together. Imports no torch."""

from __future__ import annotations

from ersparse.errors import UserError


def check_drawing(sampling: str, flow: object, prefix: str = "") -> None:
    """Check that masks that are drawn in a way can be repaired in another.

    Args:
        sampling: how masks are drawn.
        flow: the flow repair, by name or as a function.
        prefix: what precedes the names of the keys in a message.

    Raises:
        UserError: they cannot.
    """
    if sampling not in ("bernoulli", "fan_in") and flow == "resample":
        raise UserError(
            f"{prefix}sampling={sampling}: must be bernoulli with {prefix}flow=resample, which conditions independent "
            "draws"
        )
    if sampling == "fan_in" and flow not in ("none", "move"):
        raise UserError(
            f"{prefix}sampling={sampling}: needs {prefix}flow=move or none; other repairs change the number of inputs "
            "of single output channels"
        )
