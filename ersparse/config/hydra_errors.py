"""Errors of Hydra and OmegaConf about a command line or a configuration, as one line. Imports no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ersparse.config.options import all_keys, groups, no_such_key, no_such_option, options_of

PACKAGES = ("hydra", "omegaconf", "antlr4")


def is_from_hydra(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised the error.

    Some of their errors about command lines are plain `ValueError`, `TypeError` or `RuntimeError`, as in `model=null`.
    """
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    if isinstance(error, OSError):  # a closed pipe, a full disk
        return False
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback else ""
    return str(module).split(".")[0] in PACKAGES


def explain(error: BaseException) -> str:
    """Return one line for an error that Hydra or OmegaConf explains in several."""
    if isinstance(error, OverrideParseException):
        return _cannot_be_parsed(error.override)
    text = " ".join(str(error).split())
    for pattern, line in LINES:
        if match := re.search(pattern, text):
            return line(*match.groups())
    cause = f" ({' '.join(str(error.__cause__).split())})" if error.__cause__ and text.startswith("Error ") else ""
    return (text or type(error).__name__) + cause


def _cannot_be_parsed(override: str) -> str:
    key, equals, value = override.partition("=")
    if not key.lstrip("+~") or not equals:
        return f"{override or repr(override)}: must be group=option or key=value"
    if key[0] in "'\"" and override.endswith(key[0]):
        return f"{override}: must have no quotes around the key; write {override[1:-1]}"
    if key != key.strip():
        return f"{override}: must have no spaces before =; write {key.strip()}={value.strip()}"
    unquoted = re.sub(r"""(["'])([^"':{}]+)\1(?=\s*:)""", r"\2", value)
    if value.startswith("{") and unquoted != value:
        mapping = shlex.quote(f"{key}={unquoted}")
        return f"{override}: must have no quotes around the keys of a mapping; write {mapping}"
    return f"{override}: cannot be parsed; quote the value, as in {_as_text(key, value)}"


def _as_text(key: str, value: str) -> str:
    """Return the override as a shell takes it, with its value in the quotes of Hydra's grammar."""
    escaped = re.sub(r'(\\*)("|$)', lambda end: end[1] * 2 + end[2].replace('"', r"\""), value)
    return shlex.quote(f'{key}="{escaped}"')


def _unknown(key: str) -> str:
    if key in groups():
        return f"{key}: must name an option, as in {key}={options_of(key)[0]}"
    return no_such_key(key) if key else "=: must be group=option or key=value"


def _not_there(key: str) -> str:
    return f"~{key}: has no value that could be removed" if key in all_keys() else _unknown(key)


def _several_values(override: str) -> str:
    key, _, value = override.partition("=")
    return (
        f"{override}: several values are a sweep, which needs -m; "
        f"a list is written {key}=[{value}], and a text {_as_text(key, value)}"
    )


LINES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"An item is already at '([^']+)'", lambda key: f"+{key}: the key exists already; write {key}=... without +"),
    (
        r"Multiple values for (\S+?)\. To override a value use 'override \S+: (.*?)'",
        lambda key, option: f"+{key}={option}: the group has an option already; write {key}={option} without +",
    ),
    (
        r"force-add of config groups is not supported: '\+\+(.*)'",
        lambda override: f"++{override}: the group has an option already; write {override} without ++",
    ),
    (r"Could not (?:override|append to config\b.*?) '([^']*)'", _unknown),
    (r"Could not delete (?:from config\. )?'([^']*)'", _not_there),
    (r"Could not find '((?:hydra/)?[^'/]+)/([^']*)'", no_such_option),
    (r"Key '[^']+' is not in struct full_key: (\S+)", no_such_key),
    (r"Ambiguous value for argument '(.*)' 1\. To use it as a list", _several_values),
    (r"Sweep parameters '(.*)' requires --multirun", lambda text: f"{text}: several values are a sweep; add -m"),
    (
        r"Environment variable '([^']+)' not found\"? full_key: (\S+)",
        lambda name, key: f"{key}: the environment variable {name} is not set; ${{oc.env:{name},VALUE}} has a default",
    ),
    (r"^(.*?) full_key: (\S+)", lambda reason, key: f"{key}: {reason[:1].lower()}{reason[1:]}"),
)  # fmt: skip
