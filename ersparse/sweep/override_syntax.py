"""What Hydra's grammar has no words for reaches the sweeper whole, as hydra.sweeper.words."""

from __future__ import annotations

import re
from collections.abc import Sequence

OR = "or"
MULTIRUN = ("-m", "--multirun")
CLUSTER = "hydra/launcher=slurm"  # runs nothing here, and thus implies -m
ZIPPED = re.compile(r"[^=\s-][^=\s]*,[^=\s]*=.*", re.DOTALL)
SWEPT_GROUP = re.compile(r"(\w+)=(?:choice\()?[^\[{'\"]*,.*")


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra can read it: -m comes first; zipped axes and further grids are quoted, and imply it.

    So are keys of a group that is itself swept, which Hydra would look for in the group's default option.
    """
    rest = [word for word in arguments if word not in MULTIRUN]
    multirun = len(rest) < len(arguments) or CLUSTER in rest
    below = _below_swept_groups(rest) if multirun else []
    if not below and not any(word == OR or ZIPPED.fullmatch(word) for word in rest):
        return [*MULTIRUN[:multirun], *rest]
    end = rest.index(OR) if OR in rest else len(rest)
    first = [word for word in rest[:end] if not ZIPPED.fullmatch(word) and word not in below]
    others = [word for word in rest[end:] if word != OR and not _of_jobs(word)]  # Hydra's own flags and keys
    words = [word for word in rest if word == OR or _of_jobs(word)]
    return [MULTIRUN[0], *others, *first, f"hydra.sweeper.words=[{','.join(map(_quoted, words))}]"]


def _below_swept_groups(words: Sequence[str]) -> list[str]:
    """method.delta_t=100, where there is method=rigl,set."""
    groups = {match[1] for word in words if (match := SWEPT_GROUP.fullmatch(word))}
    keys = {word: word.split("=", 1)[0] for word in words}
    return [word for word, key in keys.items() if "." in key and key.split(".")[0] in groups]


def _of_jobs(word: str) -> bool:
    return not word.startswith(("-", "hydra.", "hydra/")) and ("=" in word or word.startswith("~"))


def _quoted(word: str) -> str:
    """A word as a quoted string of Hydra's grammar, in which a backslash before a quote is one."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", word)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
