"""The arguments of a network's class or function, chosen by their names in its signature."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

NAMES = {  # what a run knows, and the names under which networks, torchvision's and timm's too, take it
    "num_classes": ("num_classes", "n_classes", "num_labels"),
    "channels": ("in_channels", "in_chans", "num_channels", "channels"),
    "width": ("width", "width_mult"),
    "image_size": ("image_size", "img_size"),
}
Parameters = Mapping[str, inspect.Parameter]


class SignatureError(ValueError):
    """A class or function that cannot be called with what a run knows; the message says why."""


def keywords(build: Callable[..., Any], known: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments with which `build` is called: those of `known` that it takes, and `own`.

    A function with `**kwargs` that is annotated as returning a class, as those of torchvision and timm are, takes what
    the class takes as well. Of other functions with `**kwargs` nothing is known, and they are given the number of
    classes only.

    Args:
        build: a class, or a function, that returns a network.
        known: values by the keys of `NAMES`.
        own: further arguments; they win over those of `known`.

    Raises:
        SignatureError: `build` takes no number of classes, no width although it is not 1, or not an argument of `own`;
            or it needs an argument that neither has.
    """
    parameters = _parameters(build)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = (_parameters_of_result(build) if open_ended else {}) | dict(parameters)
    found = dict(own)
    for key, value in known.items():
        if not set(NAMES[key]) & set(own) and (name := _name_of(key, value, named, open_ended)):
            found[name] = value
    for key, value in own.items():
        if key not in named and not open_ended:
            raise SignatureError(f"takes no {key}, which is given as model.args.{key}={value}")
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and "VAR" not in parameter.kind.name and name not in found:
            raise SignatureError(f"needs a value of {name}; give it by model.args={{{name}: ...}}")
    return found


def _name_of(key: str, value: Any, named: Parameters, open_ended: bool) -> str | None:
    """Return the name of the parameter that takes `key`; None if there is none, and it can be done without."""
    for name in NAMES[key]:
        if name in named and _means(key, named[name].default):
            return name
    if key == "width" and value != 1:
        raise SignatureError(
            f"has no argument width, a factor of its hidden widths; must have model.width=1, not {value}"
        )
    if key != "num_classes":
        return None
    first = next(iter(named), None)
    if first and {"channels", "width"} <= set(named):
        return first  # written for ersparse, which once passed the number of classes by position
    if not open_ended:
        raise SignatureError(f"takes no number of classes; must have an argument {', '.join(NAMES[key])} or **kwargs")
    return key


def _means(key: str, default: Any) -> bool:
    """Return whether a parameter means what its name suggests, by its default.

    A whole `width` other than 1 is a number of channels rather than a factor, and several `channels` are those of
    layers.
    """
    if key == "width":
        return not isinstance(default, int) or default == 1
    return key != "channels" or not isinstance(default, Sequence)


def _parameters(build: Callable[..., Any]) -> Parameters:
    try:
        return inspect.signature(build).parameters
    except (TypeError, ValueError):
        raise SignatureError("has no signature; must be a class or a function") from None


def _parameters_of_result(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of the class that a function is annotated as returning, if it names one of its own."""
    returned = result_class(build)
    if returned is None or returned.__module__.partition(".")[0] == "torch":
        return {}
    return {name: each for name, each in _parameters(returned).items() if "VAR" not in each.kind.name}


def result_class(build: Callable[..., Any]) -> type[nn.Module] | None:
    """Return the class of networks that a class is, or that a function is annotated as returning; None if neither."""
    try:
        returned = build if inspect.isclass(build) else typing.get_type_hints(build).get("return")
    except Exception:  # annotations are code of the user's, of any kind
        return None
    return returned if inspect.isclass(returned) and issubclass(returned, nn.Module) else None
