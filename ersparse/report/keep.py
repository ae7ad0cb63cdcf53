"""Copies of runs that are small enough to be committed: what a report reads, without host names and local paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ersparse.errors import UserError
from ersparse.report.analysis.runs import CURVES, Run, read_curve
from ersparse.storage.atomic import write_text
from ersparse.storage.run_json import load

FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\",=]+/)+")  # the folders of an absolute path
LOCAL_OVERRIDE = re.compile(r"\s?(?:paths\.\w+|dataset\.root|hydra\.(?!mode=)\S+?|dataset\.download)=\S+")


def keep(root: Path, runs: Iterable[Run], out: Path) -> None:
    """Write run.json and metrics.csv of every run into `out`, with the folder names that they have below `root`.

    Raises:
        UserError: `out` lies inside `root`, or `root` inside `out`.
    """
    if root.resolve() in [out.resolve(), *out.resolve().parents] or out.resolve() in root.resolve().parents:
        raise UserError(f"--keep {out}: must lie apart from {root}: neither may contain the other")
    for run in runs:
        folder = out / run.path
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "run.json", compact(load(root / run.path), root))
        if curve := read_curve(root / run.path):
            write_text(folder / "metrics.csv", _metrics_csv(curve))


def compact(record: dict[str, Any], root: Path) -> str:
    """Return run.json as JSON with one line per layer, without zeros, host name and local paths."""
    record = {key: value for key, value in record.items() if key not in ("host", "wandb_id")}
    config = record["config"]
    record["config"] = {key: value for key, value in config.items() if key not in ("paths", "logger")}
    record["config"]["dataset"] = {k: v for k, v in config.get("dataset", {}).items() if k != "root"}
    layers = [json.dumps(_nonzero(layer), separators=(",", ":")) for layer in record.pop("layers")]
    text = json.dumps(_without_paths(record, root), separators=(",", ":"), ensure_ascii=False)
    return text[:-1] + ',"layers":[' + ",\n".join(layers) + "]}\n"


def _nonzero(layer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in layer.items() if key != "size" and value not in ({"in": 0, "out": 0}, None)}


def _without_paths(value: Any, root: Path) -> Any:
    """Remove the folders of absolute paths from every string; paths below `root` become relative to it."""
    if isinstance(value, dict):
        return {key: _without_paths(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item, root) for item in value]
    if isinstance(value, str):
        return FOLDERS.sub("", LOCAL_OVERRIDE.sub("", value).replace(f"{root.resolve()}/", ""))
    return value


def _metrics_csv(curve: dict[str, list[float]]) -> str:
    names = [name for name in ("epoch", *CURVES) if name in curve]
    rows = zip(*(curve[name] for name in names), strict=True)
    return "\n".join([",".join(names), *(",".join(f"{value:.5g}" for value in row) for row in rows)]) + "\n"
