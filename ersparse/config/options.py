"""The options and keys of conf/ and of a user's own configuration folders. Imports no torch.

A folder given by `--config-dir` or `hydra.searchpath` has the layout of conf/: `<group>/<option>.yaml`. Python modules
in it can be imported, so that a `_target_` may name them.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ersparse.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # installed, or in a checkout
LAUNCH = PACKAGE.parent / "launch.py"  # in a checkout
PROGRAM = ("python", "launch.py") if LAUNCH.is_file() else ("ersparse", "run")  # as documented commands begin
CONFIG_DIR = ("--config-dir", "-cd")
# keys whose values are mappings with keys of any name
FREE_MAPPINGS = ("model.args", "dataset.args", "optimizer.args", "optimizer.layers", "sparsity.layers")

_user_folders: tuple[Path, ...] = ()


def use_config_folders(arguments: Sequence[str]) -> None:
    """Take the user's own configuration folders from a command line, and make their Python modules importable.

    Raises:
        UserError: one of them may not be read. That one does not exist is left to Hydra to say.
    """
    global _user_folders
    _user_folders = tuple(dict.fromkeys(Path(os.path.abspath(folder)) for folder in _config_folders(arguments)))
    for folder in _user_folders:
        if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
            raise UserError(f"--config-dir={folder}: cannot be read (permission denied)")
    sys.path += [str(folder) for folder in _user_folders if str(folder) not in sys.path]


def _config_folders(arguments: Sequence[str]) -> Iterator[str]:
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if argument in CONFIG_DIR:
            yield from arguments[number + 1 : number + 2]
        elif flag in CONFIG_DIR and equals:
            yield value
        elif flag.lstrip("+") == "hydra.searchpath":
            yield from (word for word in re.split(r"[\[\],\s'\"]+", value.replace("file://", "")) if "/" in word)


def folders() -> tuple[Path, ...]:
    """Return conf/ and the user's own configuration folders."""
    return (CONF, *_user_folders)


def search_path() -> list[str]:
    """Return the override that makes Hydra search the user's own configuration folders."""
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in _user_folders)}]"] if _user_folders else []


def values_of(config: DictConfig) -> dict[str, Any]:
    """Return the composed configuration as plain values.

    Raises:
        UserError: it has a key that no option has, such as one that was added with `+`.
    """
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    known = {*all_keys(), "logger.names"}  # which the command line adds for several loggers
    for key in _flat(plain, ""):
        if key not in known:
            raise UserError(no_such_key(key))
    return plain


def groups() -> list[str]:
    """Return the groups that have options."""
    names = {path.name for folder in folders() for path in folder.glob("*") if path.is_dir()}
    return sorted(name for name in names if options_of(name))


def options_of(group: str) -> list[str]:
    """Return the names of the options of a group."""
    found = {path.stem for folder in folders() for path in (folder / group).glob("*.yaml")}
    return sorted(name for name in found if not name.startswith("_"))


def option_file(group: str, option: str) -> Path:
    """Return the YAML file of an option; conf/ comes first, as in Hydra's search path.

    Raises:
        UserError: there is no such option.
    """
    for folder in folders():
        if (path := folder / group / f"{option}.yaml").is_file():
            return path
    raise UserError(no_such_option(group, option))


def option_target(group: str, option: str) -> str | None:
    """Return the `_target_` of an option, which a file that it builds on may name; None if there is none."""
    return _target_in(option_file(group, option))


@cache
def _target_in(path: Path) -> str | None:
    target = with_defaults(path.parent.name, path.stem).get("_target_")
    return None if target is None else str(target)


def check_name(group: str, name: str, target: str) -> None:
    """Check that code of the user's own does not have the name of an option, since runs are told apart by names.

    Raises:
        UserError: runs with it would be found under the name of other code.
    """
    known = option_target(group, name) if name in options_of(group) else None
    if known not in (None, target):
        raise UserError(
            f"{group}.name={name}: is the name of {known}; must be another one with {group}._target_={target}, since "
            "runs are told apart by it"
        )


def no_such_option(group: str, option: str) -> str:
    """Return the error message for an option that its group does not have."""
    hint = "; several options for -m stand without quotes" if "," in option else ""
    return f"{group}={option}: no such option; must be one of {', '.join(options_of(group)) or 'none'}{hint}"


def no_such_key(key: str) -> str:
    """Return the error message for an unknown key, with the known key that resembles it most."""
    known = all_keys()
    group = key.split(".")[0]
    if key in known and group in groups():
        return f"{key}: no such key of this {group}; other options of the group have it"
    if key in known:
        return f"{key}: is not in this configuration, since ~{group} or --config-name has left it out"
    near = difflib.get_close_matches(key, known, 1, 0.7)
    if not near:  # perhaps the right name in the wrong place
        near = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"did you mean {near[0]}?" if near else "--help lists the keys"
    return f"{key}: no such key; {hint}"


def all_keys() -> tuple[str, ...]:
    """Return every key of every option of every group, and the groups, as the command line writes them."""
    return tuple(sorted({key for folder in folders() for key in _keys_in(folder)}))


@cache
def _keys_in(folder: Path) -> frozenset[str]:
    keys: set[str] = set()
    for path in folder.rglob("*.yaml"):
        group = path.parent.relative_to(folder)
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if isinstance(content, dict) and "hydra" not in group.parts:
            in_global_package = path.read_text("utf-8").startswith("# @package _global_")
            keys.update(_flat(content, "" if in_global_package or not group.parts else f"{group.parts[0]}."))
            keys.update(group.parts[:1])
            for package, nested in _nested(content):
                keys.update([f"{group.parts[0]}.{package}", *_flat(nested, f"{group.parts[0]}.{package}.")])
    return frozenset(keys)


def _nested(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield the package and the content of each option that a file includes, as in `/method@run.method: _imp`."""
    for base in content.get("defaults", []):
        for key, option in base.items() if isinstance(base, dict) else []:
            group, _, package = key.partition("@")
            if package and not key.startswith("override"):
                yield package, with_defaults(group.lstrip("/"), str(option))


def with_defaults(group: str, option: str) -> dict[str, Any]:
    """Return the keys of an option, unresolved, with those of the files in its group that it builds on."""
    content = OmegaConf.to_container(OmegaConf.load(option_file(group, option)), resolve=False)
    assert isinstance(content, dict)
    found: dict[str, Any] = {}
    for base in content.pop("defaults", []):
        found |= with_defaults(group, base) if isinstance(base, str) and base != "_self_" else {}
    return found | {str(key): value for key, value in content.items()}


def _flat(content: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    """Yield keys and the keys below them, with dots."""
    for key, value in content.items():
        if key in ("defaults", "hydra"):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict) and f"{prefix}{key}" not in FREE_MAPPINGS:
            yield from _flat(value, f"{prefix}{key}.")
