"""Import of the objects that `_target_` keys name. Imports no torch."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

from ersparse.errors import UserError


def locate(target: str) -> Any:
    """Return the object named `package.module.name`. This is the only place where a configuration names code.

    Raises:
        UserError: the object cannot be imported.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={target}: cannot be imported ({error})") from None


def locate_defined(target: str, places: Sequence[str], trust: Sequence[str], key: str) -> Any:
    """Return the class or function named `target` by the record of a run, which may be anybody's.

    It must be defined below one of `places`: what a module there has imported, such as `os.system`, is refused, and
    modules elsewhere are not imported. The packages that the caller trusts are not restricted.

    Args:
        target: import path of the object.
        places: packages in which the record may name objects.
        trust: packages, modules or objects that the caller allows besides.
        key: the key of the record, with which the error begins.

    Raises:
        UserError: the object is elsewhere, is not a class or function, or cannot be imported.
    """
    if is_below(target, trust):
        return locate(target)
    found = locate(target) if is_below(target, places) and "__" not in target else None
    defined = inspect.isclass(found) or inspect.isfunction(found)
    if not defined or not is_below(found.__module__, places):
        package = target.partition(".")[0]
        raise UserError(
            f'{key}={target}: the record of a run may name code of {", ".join(places)} only; trust=["{package}"] or '
            f"--trust {package} allows it, if you trust that folder"
        )
    return found


def is_below(target: str, places: Sequence[str]) -> bool:
    """Return whether an import path is one of `places`, or begins with it."""
    return any(f"{target}.".startswith(f"{place}.") for place in places)
