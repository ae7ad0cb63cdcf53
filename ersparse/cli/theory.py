"""`ersparse theory weak p=0.1,0.5 ...`: a short form of `experiment=theory_weak 'method.p=[0.1,0.5]' ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ersparse.cli.run import launch
from ersparse.errors import UserError

NAMES = ("lemma", "weak", "conv", "strong", "lower")
METHOD_KEYS = ("p", "delta", "epsilon", "trials")


def main(arguments: Sequence[str]) -> int:
    """Run a theory experiment as `launch` does, and return the exit status.

    Raises:
        UserError: the first argument is no theorem, or another is not key=value.
    """
    sys.argv[1:] = overrides(arguments)
    return launch()


def overrides(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as overrides of a run.

    Raises:
        UserError: the first is no theorem, or another is not key=value.
    """
    if not arguments or arguments[0] not in NAMES:
        raise UserError(f"{' '.join(['ersparse theory', *arguments[:1]])}: must be one of {', '.join(NAMES)}")
    if odd := [word for word in arguments[1:] if "=" not in word]:
        raise UserError(f"{odd[0]}: must be key=value")
    return [f"experiment=theory_{arguments[0]}", *[_override(word) for word in arguments[1:]]]


def _override(word: str) -> str:
    key, value = word.split("=", 1)
    if key == "p" and not value.startswith("["):
        value = f"[{value}]"
    return f"method.{key}={value}" if key in METHOD_KEYS else word
