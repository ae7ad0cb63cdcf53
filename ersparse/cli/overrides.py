"""Command-line arguments, rearranged and quoted so that Hydra parses what users write. Imports no torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Sweep
from hydra.errors import HydraException

from ersparse.config.options import groups, options_of
from ersparse.errors import UserError
from ersparse.sweep.override_syntax import for_hydra, is_sweep, with_free_key

FLAGS_WITH_VALUE = {
    "--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p", "--experimental-rerun",
    "--cfg", "-c",
}  # fmt: skip
INFO_FLAGS = {"--info", "-i"}
INFO_VALUES = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}
PRINTING_FLAGS = ("--cfg", "-c", "--info", "-i")
SAME_AS = {
    "experiment=null": "~experiment",  # an option of a group cannot be null
    "hydra/sweeper=basic": "hydra/sweeper=grids",  # which expands the same grids, and checks all jobs first
}
ONE_OPTION = ("model", "dataset", "sparsity", "method", "optimizer", "schedule")  # not a list of them
NOT_NULL = ("hydra", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")
WRITTEN_BY_HYDRA = {  # Hydra's own keys that make it write files before a command has been checked: values allowed
    "hydra.run.dir": (".",),
    "hydra.output_subdir": ("null",),
    "hydra.sweep.subdir": (".",),
    "hydra.job.chdir": ("false",),
    "hydra/job_logging": ("none", "disabled", "stdout"),
    "hydra/hydra_logging": ("none", "disabled"),
}
PATH = re.compile(r"(\+{0,2}(?:dataset\.root|model\.init_from|sparsity\.file|paths\.(?:root|cache)))=(.*)", re.DOTALL)


def for_hydra_parser(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra parses them: flags first, paths quoted, and the syntax of sweeps translated.

    Raises:
        UserError: a flag is unknown, or cannot be combined with the others; or an override sets what is not taken.
    """
    if "--hydra-help" in arguments:  # which Hydra prints without the configuration that overrides are about
        return ["--hydra-help"]
    sweeps = is_sweep(arguments)
    words = [SAME_AS.get(word) or quoted_path(word, sweeps) for word in flags_first(arguments)]
    translated = for_hydra([with_free_key(word) for word in with_logger_names(words)])
    check_flags(translated)
    for word in translated:
        check_override(word)
    return translated


def with_logger_names(words: Sequence[str]) -> list[str]:
    """Return the overrides with `logger.names` after a list of loggers, of which Hydra's result does not tell."""
    named = [word.lstrip("+").startswith("logger.names=") for word in words]
    lists = [word.partition("=")[2] for word in words if word.startswith("logger=[")]
    return [*words, *(f"+logger.names={names}" for names in lists if not any(named))]


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


def quoted_path(argument: str, sweeps: bool = False) -> str:
    """Return an override of a path with its value in quotes, if Hydra would not read it as a text without them.

    Args:
        argument: a word of the command line.
        sweeps: whether the command is a sweep, in which a comma separates values.
    """
    match = PATH.fullmatch(argument)
    if not match:
        return argument
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return _quoted(match[1], match[2])
    if value is None or isinstance(value, str | Glob) or (isinstance(value, Sweep) and (sweeps or ")" in match[2])):
        return argument
    return _quoted(match[1], match[2])


def _quoted(key: str, value: str) -> str:
    escaped = re.sub(r"(\\*)'", lambda quote: quote[1] * 2 + r"\'", value)
    return f"{key}='{escaped}'"


def check_flags(arguments: Sequence[str]) -> None:
    """Check the flags by Hydra's own parser, whose errors and usage fill many lines.

    Raises:
        UserError: a flag is unknown, lacks its value, or cannot be combined with the others.
    """
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    flags = parser.parse_args([word for word in arguments if word != "--version"])
    printing = next((word for word in arguments if word.split("=")[0] in PRINTING_FLAGS), None)
    if printing and flags.multirun:
        raise UserError(f"{printing}: must be used without -m; it prints the configuration of a single run")
    if printing and flags.run:
        raise UserError(f"{printing}: must be used without --run")
    for name in ("package", "resolve"):
        if getattr(flags, name) and not flags.cfg:
            raise UserError(f"--{name}: must be used with --cfg job, which prints the configuration")


def _refuse_flag(message: str) -> NoReturn:
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        raise UserError(f"{unknown}: no such flag; --hydra-help lists Hydra's, and --help the options and keys")
    raise UserError(message.removeprefix("argument "))


def check_override(argument: str) -> None:
    """Check that an override leaves one option of a group, and does not change what Hydra itself writes.

    Raises:
        UserError: it does.
    """
    key, equals, value = argument.lstrip("+").partition("=")
    if equals and not key:
        raise UserError(f"{argument}: must be group=option or key=value")
    if equals and value == "null" and (key in groups() or key in NOT_NULL):
        raise UserError(f"{argument}: must be one of {', '.join(options_of(key.replace('.', '/')))}")
    if equals and key in ONE_OPTION and (value.startswith("[") or ",[" in value):
        raise UserError(f"{argument}: must be one option, since Hydra would mix several; {key}=a,b with -m sweeps")
    if equals and key in WRITTEN_BY_HYDRA and value not in WRITTEN_BY_HYDRA[key]:
        allowed = " or ".join(WRITTEN_BY_HYDRA[key])
        raise UserError(f"{argument}: must be {allowed}; run folders lie in paths.root, and have the log of the run")
