"""`ersparse theory weak p=0.1,0.5 ...`: a short way to write `experiment=theory_weak 'method.p=[0.1,0.5]' ...`."""

from __future__ import annotations

from collections.abc import Sequence

from ersparse.errors import UserError

NAMES = ("lemma", "weak", "conv", "strong", "lower")
OWN = ("p", "delta", "epsilon", "trials")


def overrides(words: Sequence[str]) -> list[str]:
    """The words of the `theory` command as those of a run.

    Raises:
        UserError: the first is no theorem, or another is not key=value.
    """
    if not words or words[0] not in NAMES:
        raise UserError(f"{' '.join(['ersparse theory', *words[:1]])}: must be one of {', '.join(NAMES)}")
    if odd := [word for word in words[1:] if "=" not in word]:
        raise UserError(f"{odd[0]}: must be key=value")
    return [f"experiment=theory_{words[0]}", *[_override(word) for word in words[1:]]]


def _override(word: str) -> str:
    key, value = word.split("=", 1)
    if key == "p" and not value.startswith("["):
        value = f"[{value}]"
    return f"method.{key}={value}" if key in OWN else word
