"""The command line of given settings: what differs from the files of conf/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from ersparse.config.options import CONF
from ersparse.config.schema import Settings

GROUPS = ("model", "dataset", "sparsity", "method")
PLAIN = ("optimizer", "seeds", "paths")


def command(settings: Settings) -> str:
    """`python launch.py ...`, which composes to what decides the same run in the same place."""
    return " ".join(["python launch.py", *words(settings)])


def words(settings: Settings) -> list[str]:
    """Options first, then the keys that they give another value."""
    values, primary = settings.model_dump(by_alias=True), _yaml(CONF / "config.yaml")
    chosen = {group: values[group]["name"] for group in GROUPS}
    if settings.method["name"] in ("imp", "synflow") and settings.sparsity.name == "dense":
        del chosen["sparsity"]
    found = [f"{group}={name}" for group, name in chosen.items()]
    found += [f"{key}={values[key]}" for key in ("variant",) if values[key] != "paper"]
    found += [f"scale={settings.scale.name}"] if settings.scale.name != "full" else []
    found += [f"seed={settings.seed}"]
    for group in ("model", "dataset", "method"):
        given = {key: value for key, value in values[group].items() if key not in ("name", "_target_")}
        found += _changed(group, given, _option(group, values[group]["name"]))
    for group in PLAIN:
        found += _changed(group, values[group], primary[group])
    return found


def _changed(group: str, values: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if key in defaults and _plain(value) != _plain(defaults[key]):
            yield f"{group}.{key}={_written(value)}"


def _option(group: str, name: str) -> dict[str, Any]:
    """The keys of an option, with those of the files that it builds on."""
    found: dict[str, Any] = {}
    content = _yaml(CONF / group / f"{name}.yaml")
    for base in content.pop("defaults", []):
        found |= _option(group, base) if isinstance(base, str) else {}
    return found | content


def _yaml(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    return {key: value if key in ("defaults", "hydra") else _resolved(value) for key, value in content.items()}


def _resolved(value: Any) -> Any:
    """With what environment variables give."""
    return OmegaConf.to_container(OmegaConf.create({"it": value}), resolve=True)["it"]  # type: ignore[index,call-overload]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "'[" + ",".join(map(_written, value)) + "]'"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
