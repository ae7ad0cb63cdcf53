"""Refusal to start over silently when the images of an unfinished run have changed."""

from __future__ import annotations

import glob
import json
from typing import Any

from ersparse.config import from_data
from ersparse.errors import UserError
from ersparse.runs.plan import Plan
from ersparse.storage import run_json

GROUPS = ("model", "dataset", "sparsity", "method", "optimizer", "schedule", "seeds", "variant")


def check_unchanged_data(plan: Plan) -> None:
    """Check that no unfinished run differs from a new one in its images only.

    The digest of the images is part of a run's identity, so that changed images make another run.

    Raises:
        UserError: there is such a run, which this command would have resumed.
    """
    dataset = plan.settings.dataset
    digest = dataset.own_keys().get("digest")
    if digest is None or plan.settings.fresh:
        return
    asked = _without_data(json.loads(plan.settings.model_dump_json(by_alias=True)))
    prefix = plan.folder.parent.name.rpartition("-")[0]
    for path in sorted(plan.folder.parents[1].glob(f"{glob.escape(prefix)}-*/{plan.folder.name}")):
        record = run_json.read(path)
        before = record["config"] if record and record["state"] != "done" else None
        if before and before["dataset"].get("digest") != digest and _without_data(before) == asked:
            raise UserError(
                f"{from_data.place(dataset)}: the images have changed since {path} was interrupted, their digest was "
                f"{before['dataset'].get('digest')} and is {digest}; must be restored to resume it, or fresh=true, "
                "which starts a new run"
            )


def _without_data(config: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the results of a run, without what is read from its images and where they are."""
    left_out = {*from_data.KEYS, "root", "download"}
    dataset = {key: value for key, value in config["dataset"].items() if key not in left_out}
    return {group: config.get(group) for group in GROUPS} | {"dataset": dataset}
