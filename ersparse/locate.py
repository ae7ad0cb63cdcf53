"""Import of the objects that `_target_` keys name, and what their code raises. Imports no torch."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ersparse.errors import UserError


def locate(target: str) -> Any:
    """Return the object named `package.module.name`. This is the only place where a configuration names code.

    Raises:
        UserError: the object cannot be imported.
    """
    module, _, name = target.rpartition(".")
    if not module:
        raise UserError(f"_target_={target}: must name an object of a module, such as {target or 'module'}.Name")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"_target_={target}: cannot be imported ({error})") from None
    except Exception as error:  # code of the user's
        raise UserError(f"_target_={target}: cannot be imported, {describe_failure(error)}") from error


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


@contextmanager
def own_code(where: str, target: str) -> Iterator[None]:
    """Turn an exception that code of the user's raises into a `UserError` of one line, with the place in that code.

    To be used before a run has started; afterwards an exception is a failure of the run, which shows the traceback.

    Args:
        where: the key and value that name the code, such as "dataset=own".
        target: import path of the object that is called. Exceptions of ersparse's own objects are left as they are.

    Raises:
        UserError: the code raises an exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_below(target, ("ersparse",)):
            raise
        raise UserError(f"{where}: {describe_failure(error)}") from error


def describe_failure(error: Exception) -> str:
    """Return one line for an error that code of the user's raises, with the place in that code."""
    frames = traceback.extract_tb(error.__traceback__)
    torch = find_spec("torch")
    libraries = (str(Path(__file__).parent), str(Path(torch.origin).parent) if torch and torch.origin else "<frozen")
    theirs = [frame for frame in frames if not frame.filename.startswith((*libraries, "<frozen"))]
    where = f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})" if theirs else ""
    message = " ".join(str(error).split())[:200]
    return f"raises {type(error).__name__}{message and ': '}{message}{where}"
