"""Any logger of Lightning's, by YAML alone."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import ConfigDict, model_validator

from ersparse.errors import RunFailed, UserError
from ersparse.runs.loggers.base import RunLogger, shown_config
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord


class LightningLogger(RunLogger):
    """Creates the subclass of `pytorch_lightning.loggers.Logger` that `_target_` names, with its keys as arguments.

    In texts `{folder}`, `{run}`, `{hash}`, `{seed}`, `{method}` and `{experiment}` are replaced. A constructor that
    takes `save_dir` gets the run folder, unless the key is set.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def keys_are_arguments(self) -> LightningLogger:
        """Check that the class takes every key.

        Raises:
            UserError: it does not.
        """
        takes = inspect.signature(self.resolve()).parameters
        if not any(argument.kind is argument.VAR_KEYWORD for argument in takes.values()):
            for key, value in (self.model_extra or {}).items():
                if key not in takes:
                    raise UserError(f"logger.{key}={value}: no such key; {self.target} does not take it")
        return self

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        kind = self.resolve()
        keys = {key: _filled(value, plan) for key, value in (self.model_extra or {}).items()}
        if "save_dir" in inspect.signature(kind).parameters:
            keys.setdefault("save_dir", str(plan.folder))
        try:
            logger = kind(**keys)
        except ModuleNotFoundError as error:
            raise RunFailed(f"logger={self.name}: {' '.join(str(error).split())}") from None
        logger.log_hyperparams(shown_config(record))
        return logger


def _filled(value: Any, plan: Plan) -> Any:
    """Return a key with the properties of the run in place of `{…}`."""
    if not isinstance(value, str):
        return value
    run = f"{plan.folder.parent.name}/s{plan.settings.seed}"
    for name, text in {
        "folder": plan.folder, "run": run, "hash": plan.hash, "seed": plan.settings.seed, "method": plan.method.name,
        "experiment": plan.settings.experiment or "runs",
    }.items():  # fmt: skip
        value = value.replace(f"{{{name}}}", str(text))
    return value
