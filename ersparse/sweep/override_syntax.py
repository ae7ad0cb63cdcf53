"""Sweep syntax beyond Hydra's override grammar: zipped axes, unions of grids, and keys of swept groups.

Overrides that Hydra cannot parse are passed to the sweeper as one quoted list, hydra.sweeper.words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

OR = "or"
MULTIRUN = ("-m", "--multirun")
IMPLY_MULTIRUN = ("hydra/launcher=slurm", "hydra/sweeper=optuna")  # they never run a job in this process
ZIPPED_AXIS = re.compile(r"[^=\s-][^=\s]*,[^=\s]*=.*", re.DOTALL)
SWEPT_GROUP = re.compile(r"(\w+)=(?:choice\()?[^\[{'\"]*,.*")
FREE_KEY = re.compile(r"((model|dataset|optimizer)\.args|hydra\.(sweeper\.(sampler|pruner)|launcher\.sbatch))[.=]")


def with_free_key(override: str) -> str:
    """Return an override of free arguments, as `model.args`, so that Hydra adds keys that the option does not have."""
    return f"++{override}" if FREE_KEY.match(override) else override


def for_hydra(arguments: Sequence[str]) -> list[str]:
    """Return the command-line arguments in a form that Hydra can parse.

    -m is moved to the front. If there are zipped axes, unions, or keys of a group that is itself swept, all overrides
    are also quoted in hydra.sweeper.words; zipped axes and unions imply -m. Hydra would look for a key of a swept group
    in the group's default option, which may not have it.
    """
    rest = [argument for argument in arguments if argument not in MULTIRUN]
    multirun = len(rest) < len(arguments) or bool({*IMPLY_MULTIRUN} & set(rest))
    nested = _keys_of_swept_groups(rest) if multirun else []
    if not nested and not _exceeds_grammar(rest):
        return [*MULTIRUN[:multirun], *rest]
    end = rest.index(OR) if OR in rest else len(rest)
    first_grid = [text for text in rest[:end] if not ZIPPED_AXIS.fullmatch(text) and text not in nested]
    hydra_arguments = [text for text in rest[end:] if text != OR and not _is_job_override(text)]
    quoted = [_quoted(text) for text in rest if text == OR or _is_job_override(text)]
    return [MULTIRUN[0], *hydra_arguments, *first_grid, f"hydra.sweeper.words=[{','.join(quoted)}]"]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Return whether the arguments themselves ask for a sweep. A preset may do so as well."""
    return bool({*MULTIRUN, *IMPLY_MULTIRUN} & set(arguments)) or _exceeds_grammar(arguments)


def _exceeds_grammar(arguments: Sequence[str]) -> bool:
    """Return whether there is a zipped axis or a union."""
    return any(argument == OR or ZIPPED_AXIS.fullmatch(argument) for argument in arguments)


def _keys_of_swept_groups(arguments: Sequence[str]) -> list[str]:
    """Return the overrides of keys of swept groups, such as method.delta_t=100 beside method=rigl,set."""
    groups = {match[1] for argument in arguments if (match := SWEPT_GROUP.fullmatch(argument))}
    keys = {argument: argument.split("=", 1)[0].lstrip("+") for argument in arguments}
    return [argument for argument, key in keys.items() if "." in key and key.split(".")[0] in groups]


def _is_job_override(argument: str) -> bool:
    """Return whether an argument is an override for the jobs, and not a flag or key of Hydra itself."""
    return not argument.lstrip("+~").startswith(("-", "hydra.", "hydra/")) and (
        "=" in argument or argument.startswith("~")
    )


def _quoted(text: str) -> str:
    """Return `text` as a quoted string of Hydra's grammar, in which backslashes before a quote are doubled."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"
