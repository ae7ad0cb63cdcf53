"""Command-line arguments, rearranged and quoted so that Hydra parses what users write. Imports no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ersparse.errors import UserError
from ersparse.sweep.override_syntax import MULTIRUN, for_hydra, with_free_key

FLAGS_WITH_VALUE = {
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--experimental-rerun",
    "--cfg", "-c",
}  # fmt: skip
INFO_FLAGS = {"--info", "-i"}
INFO_VALUES = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
PRINTING_FLAGS = ("--cfg", "-c", "--info", "-i")
PATH = re.compile(r"(dataset\.root|model\.init_from|sparsity\.file|paths\.(?:root|cache))=(.*)", re.DOTALL)


def for_hydra_parser(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra parses them: flags first, paths quoted, and the syntax of sweeps translated.

    Raises:
        UserError: a flag that prints the configuration of one run is combined with a sweep.
    """
    translated = for_hydra([with_free_key(quoted_path(argument)) for argument in flags_first(arguments)])
    printing = next((argument for argument in translated if argument.split("=")[0] in PRINTING_FLAGS), None)
    if printing and set(MULTIRUN) & set(translated):
        raise UserError(f"{printing}: must be used without -m; it prints the configuration of a single run")
    return translated


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Return flags before overrides: Hydra's parser takes overrides in one piece only."""
    flags: list[str] = []
    overrides: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        takes_value = argument in FLAGS_WITH_VALUE or (argument in INFO_FLAGS and rest[:1] and rest[0] in INFO_VALUES)
        if takes_value:
            flags += [argument, *itertools.islice(rest, 1)]
            del rest[:1]
        else:
            (flags if argument.startswith("-") else overrides).append(argument)
    return flags + overrides


def quoted_path(argument: str) -> str:
    """Return an override of a path with its value in quotes, if it cannot be parsed without them."""
    match = PATH.fullmatch(argument)
    if not match:
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        escaped = re.sub(r"(\\*)'", lambda quote: quote[1] * 2 + r"\'", match[2])
        return f"{match[1]}='{escaped}'"
    return argument
