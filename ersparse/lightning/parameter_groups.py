"""Groups of parameters with settings of their own: `optimizer.no_decay` and `optimizer.layers`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.errors import UserError

NORM, BIAS = "norm", "bias"


class ParameterGroup(NamedTuple):
    """Names of parameters, and the keys in which they differ from the other parameters."""

    names: list[str]
    keys: dict[str, Any]


def parameter_groups(names: Iterable[str], norms: Collection[str], settings: OptimizerSettings) -> list[ParameterGroup]:
    """Return the groups in the order of their first parameters; one without keys if the settings make no groups.

    A parameter's keys are `weight_decay` 0 if `optimizer.no_decay` names it, and those of each pattern of
    `optimizer.layers` that matches its name; of several, the last one counts.

    Args:
        names: names of all parameters that are trained.
        norms: names of those that belong to normalisation layers.
        settings: the settings of the optimizer.
    """
    groups: dict[str, ParameterGroup] = {}
    for name in names:
        keys: dict[str, Any] = {}
        if any(_names(entry, name, norms) for entry in settings.no_decay):
            keys["weight_decay"] = 0.0
        for pattern, own in (settings.layers or {}).items():
            keys |= own if fnmatchcase(name, pattern) else {}
        groups.setdefault(repr(sorted(keys.items())), ParameterGroup([], keys)).names.append(name)
    return list(groups.values())


def norm_parameters(network: nn.Module) -> set[str]:
    """Return the names of the parameters of normalisation layers, PyTorch's and those named so ("…Norm…")."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in network.named_modules()
        if isinstance(module, _NormBase) or "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }


def check_groups(network: nn.Module, settings: OptimizerSettings, known: Collection[str]) -> None:
    """Check that every pattern matches a parameter, and that the optimizer has the keys of `optimizer.layers`.

    Args:
        network: the network that is trained.
        settings: the settings of the optimizer.
        known: the keys that the optimizer has for each group.

    Raises:
        UserError: a pattern matches nothing, or a key is unknown.
    """
    names = [name for name, _ in network.named_parameters()]
    for entry in settings.no_decay:
        if entry not in (NORM, BIAS) and not any(fnmatchcase(name, entry) for name in names):
            raise UserError(
                f"optimizer.no_decay={settings.no_decay}: {entry} matches no parameter; must be norm, bias, or a "
                f"pattern of names such as {names[-1]}"
            )
    for pattern, keys in (settings.layers or {}).items():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"optimizer.layers={settings.layers}: {pattern} matches no parameter, as {names[-1]} would")
        for key in keys:
            if key not in known or key == "params":
                allowed = ", ".join(sorted(set(known) & {"lr", "weight_decay", "momentum", "betas", "eps"}))
                raise UserError(f"optimizer.layers.{pattern}.{key}={keys[key]}: no such key; must be one of {allowed}")


def _names(entry: str, name: str, norms: Collection[str]) -> bool:
    """Return whether an entry of `optimizer.no_decay` names the parameter."""
    if entry == NORM:
        return name in norms
    if entry == BIAS:
        return "bias" in name.rsplit(".", 1)[-1]
    return fnmatchcase(name, entry)
