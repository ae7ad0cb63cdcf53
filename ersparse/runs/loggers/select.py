"""The logger, or loggers, that the settings name."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from ersparse.config.groups import build
from ersparse.config.options import options_of, with_defaults
from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.locate import locate
from ersparse.runs.loggers.base import RunLogger
from ersparse.runs.loggers.several import SeveralLoggers

NAMES = "names"  # key of `logger` that lists the options, if there are several: logger=[wandb,tensorboard]


def logger_of(settings: Settings) -> RunLogger:
    """Return the logger that the settings name, with its keys checked.

    Raises:
        UserError: a key is unknown or out of range, `_target_` names no logger, or its package is not installed.
    """
    values = dict(settings.logger)
    names = values.pop(NAMES, None)
    if not (names or values.get("name")):
        raise UserError(f"logger=[]: must be one of {', '.join(options_of('logger'))}, or several of them")
    if not names:
        return _logger(values)
    options = [with_defaults("logger", name) for name in names]
    loggers = [_logger(_keys_of(option, options, values)) for option in options]
    return loggers[0] if len(loggers) == 1 else SeveralLoggers(target="", name="several", loggers=loggers)


def _logger(values: dict[str, Any]) -> RunLogger:
    name = str(values.get("name"))
    target = str(values.get("_target_") or f"ersparse.runs.loggers.{name}.{name.title()}Logger")
    kind = locate(target)
    if not isinstance(kind, type):
        raise UserError(f"logger._target_={target}: must name a class")
    if not issubclass(kind, RunLogger):
        return _of_lightning(kind, target, values)
    if kind.package and importlib.util.find_spec(kind.package) is None:
        raise UserError(f"logger={name}: is not installed; pip install {kind.package}, or logger=csv")
    if "_target_" not in values:  # written before loggers had one, when every logger had the keys of W&B
        values = {key: value for key, value in values.items() if key in kind.model_fields}
    return build(kind, values | {"_target_": target}, "logger.")


def _of_lightning(kind: type, target: str, values: dict[str, Any]) -> RunLogger:
    """Return the adapter of a logger of Lightning's, or of one's own for Lightning.

    Raises:
        UserError: the class is no such logger, or does not take a key.
    """
    from pytorch_lightning.loggers import Logger  # slow to import

    from ersparse.runs.loggers.lightning import LightningLogger

    if not issubclass(kind, Logger):
        raise UserError(
            f"logger._target_={target}: must name a subclass of ersparse.runs.loggers.base.RunLogger or of "
            "pytorch_lightning.loggers.Logger"
        )
    return build(LightningLogger, values, "logger.")


def _keys_of(
    option: Mapping[str, Any], options: Sequence[Mapping[str, Any]], merged: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the keys of one of several loggers.

    Hydra merges the options, so that of a key which several have, the last option's value stands in `merged`. If it is
    unchanged there, each option has its own; otherwise it was set for all of them.
    """
    found = {key: option[key] for key in ("name", "_target_") if key in option}
    for key in set(option) - set(found):
        having = [other for other in options if key in other]
        unchanged = len(having) > 1 and merged.get(key) == having[-1][key]
        found[key] = option[key] if unchanged else merged.get(key)
    return found
