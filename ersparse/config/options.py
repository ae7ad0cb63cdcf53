"""Which keys and options there are in conf/, and what is said of one that there is not. Imports no torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ersparse.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # installed, or in a checkout
LAUNCH = PACKAGE.parent / "launch.py"  # in a checkout


def values_of(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain values, every key of it known."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    _known(plain)
    return plain


def options_of(group: str) -> list[str]:
    """The options of a group of conf/, by file name."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.name.startswith("_"))


def explain(error: Exception) -> str:
    """One line for what Hydra says in several."""
    text = str(error)
    if match := re.search(r"Could not (?:override|append to config\b.*?) '([^']+)'", text):
        return _no_such_key(match[1], all_keys())
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        return f"{group}={option}: no such option; must be one of {', '.join(options_of(group)) or 'none'}"
    if match := re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", text):
        return _no_such_key(match[2], all_keys())
    return " ".join(text.split())


def _no_such_key(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, 1, 0.7)
    if not near:  # perhaps the right name in the wrong place
        near = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"did you mean {near[0]}?" if near else "--help lists the keys"
    return f"{key}: no such key; {hint}"


@cache
def all_keys() -> tuple[str, ...]:
    """Every key of every option of every group, and the groups, as the command line writes them."""
    keys: set[str] = set()
    for path in CONF.rglob("*.yaml"):
        group = path.parent.relative_to(CONF)
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if isinstance(content, dict) and "hydra" not in group.parts:
            globally = path.read_text().startswith("# @package _global_")
            keys.update(_flat(content, "" if globally or not group.parts else f"{group.parts[0]}."))
            keys.update(group.parts[:1])
            for package, nested in _nested(content):
                keys.update([f"{group.parts[0]}.{package}", *_flat(nested, f"{group.parts[0]}.{package}.")])
    return tuple(sorted(keys))


def _nested(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Where an option holds one of another group, as in `/method@run.method: _imp`: the place, and what is there."""
    for base in content.get("defaults", []):
        for key, option in base.items() if isinstance(base, dict) else []:
            group, _, package = key.partition("@")
            if package and not key.startswith("override"):
                nested = OmegaConf.to_container(
                    OmegaConf.load(CONF / group.lstrip("/") / f"{option}.yaml"), resolve=False
                )
                assert isinstance(nested, dict)
                yield package, nested


def _flat(content: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    """Keys and the keys below them, with dots."""
    for key, value in content.items():
        if key in ("defaults", "hydra"):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _known(values: Mapping[str, Any]) -> None:
    """Refuses keys that were added with `+`.

    Raises:
        UserError: the key, and the nearest one that there is.
    """
    known = set(all_keys())
    for key in _flat(values, ""):
        if key not in known:
            raise UserError(_no_such_key(key, sorted(known)))
