"""The command line that composes given settings: options, and the keys that differ from the files of conf/."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

from ersparse.config.options import CONF, PROGRAM, folders, options_of, with_defaults
from ersparse.config.schema import Settings

GROUPS = ("model", "dataset", "sparsity", "method")
# methods that choose sparsity=dense
DENSE_BY_DEFAULT = ("imp", "synflow", "lrr", "gmp", "acdc", "topkast", "str", "spred")
GROUPS_WITH_DEFAULT = {"optimizer": "sgd", "schedule": "multistep"}


def command(settings: Settings) -> str:
    """Return the command that composes settings that decide the same run in the same folder."""
    own = [word for folder in folders()[1:] for word in ("--config-dir", str(folder))]
    return shlex.join([*PROGRAM, *own, *overrides(settings)])


def overrides(settings: Settings) -> list[str]:
    """Return the overrides: options first, then the keys that have another value than in their option."""
    values = settings.model_dump(by_alias=True)
    chosen = {group: values[group]["name"] for group in GROUPS if _is_option(group, values)}
    if settings.method["name"] in DENSE_BY_DEFAULT and settings.sparsity.name == "dense":
        del chosen["sparsity"]
    found = [f"{group}={name}" for group, name in chosen.items()]
    found += [
        f"{group}={values[group]['name']}"
        for group, default in GROUPS_WITH_DEFAULT.items()
        if values[group]["name"] != default and _is_option(group, values)
    ]
    for group in (*GROUPS, *GROUPS_WITH_DEFAULT):
        if not _is_option(group, values):
            found += [f"{group}.name={values[group]['name']}", f"{group}._target_={values[group]['_target_']}"]
    found += [f"variant={settings.variant}"] if settings.variant != "paper" else []
    found += [f"scale={settings.scale.name}"] if settings.scale.name != "full" else []
    found += [f"seed={settings.seed}"]
    for group in ("model", "dataset", "method", *GROUPS_WITH_DEFAULT):
        option = values[group]["name"] if _is_option(group, values) else _default_option(group)
        found += _changed(group, values[group], with_defaults(group, option))
    primary = _primary()
    for group in ("seeds", "paths"):
        found += _changed(group, values[group], primary[group])
    return found


def _is_option(group: str, values: Mapping[str, Any]) -> bool:
    """Return whether an option has this name; otherwise it was given with a `_target_` on the command line."""
    return values[group]["name"] in options_of(group)


def _default_option(group: str) -> str:
    found: str = next(item[group] for item in _primary()["defaults"] if isinstance(item, dict) and group in item)
    return found


def _primary() -> dict[str, Any]:
    primary = OmegaConf.to_container(OmegaConf.load(CONF / "config.yaml"), resolve=False)
    assert isinstance(primary, dict)
    return {str(key): value for key, value in primary.items()}


def _changed(group: str, values: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if key in defaults and key not in ("name", "_target_") and _plain(value) != _plain(_resolved(defaults[key])):
            yield f"{group}.{key}={_written(value)}"


def _resolved(value: Any) -> Any:
    """Return a value of a YAML file with environment variables inserted."""
    container = OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)
    assert isinstance(container, dict)
    return container["value"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_written, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
