"""Import of the objects that `_target_` keys name. Imports no torch."""

from __future__ import annotations

import importlib
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
