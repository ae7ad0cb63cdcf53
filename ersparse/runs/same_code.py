"""Refusal to take a run of one network for that of another: names stand for `_target_` in the identity of a run."""

from __future__ import annotations

from pathlib import Path

from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.storage import run_json

BUILT_IN = "ersparse."  # whose code may move; its names are checked (`ersparse.config.options.check_name`)


def targets(settings: Settings) -> dict[str, str]:
    """Return the `_target_` of each group that decides the results of a run."""
    s = settings
    named = {"model": s.model, "dataset": s.dataset, "sparsity": s.sparsity, "optimizer": s.optimizer}
    named["schedule"] = s.schedule
    return {group: value.target for group, value in named.items()} | {"method": str(s.method.get("_target_"))}


def check_same_code(settings: Settings, folder: Path) -> None:
    """Check that the run in `folder`, if there is one, used the code of the user's own that `settings` name.

    Raises:
        UserError: it was a run of other code with the same name.
    """
    own = {group: target for group, target in targets(settings).items() if not target.startswith(BUILT_IN)}
    record = run_json.read(folder) if own and not settings.fresh else None
    config = (record or {}).get("config") or {}
    for group, target in own.items():
        before = (config.get(group) or {}).get("_target_", target)
        if before != target:
            name = config[group].get("name")
            raise UserError(
                f"{group}.name={name}: {folder} is a run of {group}._target_={before}; must be another name with "
                f"{group}._target_={target}, or fresh=true, which replaces that run"
            )


def check_same_code_in_sweep(job: str, first: Settings, second: Settings) -> None:
    """Check that two settings with the same identity name the same code.

    Args:
        job: the name of both runs.
        first: settings of one run.
        second: settings of the other one.

    Raises:
        UserError: they do not.
    """
    others = targets(second)
    for group, target in targets(first).items():
        if target != others[group]:
            raise UserError(
                f"{group}._target_={target},{others[group]}: each needs a {group}.name of its own, both would be {job}"
            )
