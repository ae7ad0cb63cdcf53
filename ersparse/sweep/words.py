"""What Hydra's grammar has no words for reaches the sweeper whole, as hydra.sweeper.words."""

from __future__ import annotations

import re
from collections.abc import Sequence

OR = "or"
ZIPPED = re.compile(r"[^=\s-][^=\s]*,[^=\s]*=.*", re.DOTALL)


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra can read it: zipped axes and further grids are quoted, and make it a sweep."""
    if not any(word == OR or ZIPPED.fullmatch(word) for word in arguments):
        return list(arguments)
    end = arguments.index(OR) if OR in arguments else len(arguments)
    own = [word for word in arguments[:end] if word.startswith("-") or not ZIPPED.fullmatch(word)]
    words = [word for word in arguments if not word.startswith(("-", "hydra.", "hydra/"))]
    flag = [] if {"-m", "--multirun"} & set(arguments) else ["-m"]
    return [*flag, *own, f"hydra.sweeper.words=[{','.join(map(_quoted, words))}]"]


def _quoted(word: str) -> str:
    """A word as a quoted string of Hydra's grammar, in which a backslash before a quote is one."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", word)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
