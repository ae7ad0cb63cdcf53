"""The `_target_` of options that were known by their names before they had one. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ersparse.config.options import CONF, options_of
from ersparse.errors import UserError


def builtin_target(values: Any, group: str, pattern: str) -> Any:
    """Return `values` with the `_target_` of a built-in option, if they have none.

    Raises:
        UserError: the name is neither that of an option nor accompanied by a `_target_` of its own, or it is that of
            another option, whose runs would have the same hash.
    """
    if not isinstance(values, Mapping) or not isinstance(name := values.get("name"), str):
        return values
    own = pattern.format(name=name)
    target = values.get("_target_") or own
    if target == own and name not in options_of(group):
        raise UserError(f"{group}.name={name}: must be one of {', '.join(options_of(group))}")
    if target != own and (CONF / group / f"{name}.yaml").is_file():
        raise UserError(f"{group}.name={name}: must be another name with {group}._target_={target}")
    return {**values, "_target_": target}
