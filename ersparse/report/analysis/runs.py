"""Run folders as values: what a report needs of each run.json, and which ones cannot be read. Imports no torch."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ersparse.storage.run_json import SCHEMA, load, run_folders, state_of

CURVES = ("test/acc", "train/loss", "rewire/overlap", "rewire/explored")  # columns of metrics.csv that reports use
NOT_COMPARED = ("paths", "logger", "fresh", "dry_run")  # parts of the config that do not change the result


class LayerRecord(NamedTuple):
    """One prunable layer of one run, from run.json.

    Attributes:
        shape: the shape of the weight tensor, (n_out, n_in, *kernel).
        size: number of weights.
        density: nominal density of the layer.
        drawn: nonzero weights of the mask as drawn, before flow repair.
        zero_in, zero_out: output channels of in-degree zero and input channels of out-degree zero, as drawn.
        added_in, added_out: weights that flow repair added to such channels.
        moved_in, moved_out: weights that flow repair moved to such channels.
        nonzero: nonzero weights at the end of the run.
        positions: how often each weight is applied to one image; None in runs that did not count it.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    density: float
    drawn: int
    zero_in: int
    zero_out: int
    added_in: int
    added_out: int
    moved_in: int
    moved_out: int
    nonzero: int
    positions: int | None


@dataclass(frozen=True)
class Run:
    """One run, from its run.json.

    Attributes:
        path: the path of the run folder, relative to the folder that was read.
        experiment: name of the preset, or "runs" without one.
        kind: "accuracy" (trained), "draw" (a mask was drawn, nothing was trained), or "theory" (no network).
        state: done, running, interrupted, preempted, or failed.
    """

    path: Path
    experiment: str
    kind: str
    hash: str
    seed: int
    state: str
    config: dict[str, Any]
    sparsity: dict[str, Any]
    layers: list[LayerRecord]
    metrics: dict[str, float | None]
    timing: dict[str, float | None]
    progress: dict[str, int]
    command: str
    updated: str
    commit: str
    machine: str
    error: str | None

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def flops(self) -> tuple[int, int] | None:
        """FLOPs of one forward pass of one image: of the nonzero weights, and of the dense network.

        A multiply-add counts as two. None if the run did not count positions.
        """
        if not self.layers or any(layer.positions is None for layer in self.layers):
            return None
        sparse = sum(2 * layer.nonzero * (layer.positions or 0) for layer in self.layers)
        return sparse, sum(2 * layer.size * (layer.positions or 0) for layer in self.layers)


@dataclass(frozen=True)
class Skipped:
    """A run.json that is left out of the report, and the reason."""

    path: Path
    why: str


def read_runs(root: Path) -> tuple[list[Run], list[Skipped]]:
    """Return every run below `root` in the order of folder names, and those that cannot be read."""
    runs: list[Run] = []
    skipped: list[Skipped] = []
    for folder in run_folders(root):
        path = folder.relative_to(root)
        try:
            runs.append(_run(path, folder, load(folder)))
        except _OtherSchema as error:
            skipped.append(Skipped(path / "run.json", str(error)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            skipped.append(Skipped(path / "run.json", f"cannot be read ({_short(error)})"))
    return runs, skipped


def read_curve(folder: Path) -> dict[str, list[float]]:
    """Return the columns "epoch" and `CURVES` of a run's metrics.csv, one value per epoch.

    Columns that the file lacks are left out; the result is empty if the file is missing or damaged.
    """
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        head, rows = rows[0], rows[1:]
        wanted = [(name, head.index(name)) for name in ("epoch", *CURVES) if name in head]
        return {name: [float(row[column]) for row in rows] for name, column in wanted}
    except (OSError, ValueError, IndexError):
        return {}


class _OtherSchema(ValueError):
    """A run.json that another version of ersparse wrote."""


def _run(path: Path, folder: Path, record: dict[str, Any]) -> Run:
    if record["schema"] != SCHEMA:
        raise _OtherSchema(f"schema {record['schema']}, must be {SCHEMA}")
    config = record["config"]
    return Run(
        path=path,
        experiment=config.get("experiment") or "runs",
        kind=_kind(record),
        hash=record["hash"],
        seed=int(record["seed"]),
        state=state_of(record, folder),
        config={key: value for key, value in config.items() if key not in NOT_COMPARED},
        sparsity=record.get("sparsity") or {},
        layers=[_layer(layer) for layer in record.get("layers") or []],
        metrics=record.get("metrics") or {},
        timing=record.get("timing") or {},
        progress=record.get("progress") or {},
        command=str(record.get("command", "")),
        updated=str(record.get("updated", "")),
        commit=str((record.get("git") or {}).get("sha", ""))[:10],
        machine=str(record.get("machine") or ""),
        error=" ".join(str(record["error"]).split()) if record.get("error") else None,
    )


def _kind(record: dict[str, Any]) -> str:
    if record["sparsity"] is None:
        return "theory"
    return "draw" if record["config"]["method"]["name"] == "draw" else "accuracy"


def _layer(layer: dict[str, Any]) -> LayerRecord:
    zero, added, moved = (layer.get(key) or {} for key in ("zero_degree", "edges_added", "edges_moved"))
    return LayerRecord(
        layer["name"],
        tuple(layer["shape"]),
        layer.get("size", math.prod(layer["shape"])),
        layer["density"],
        layer["drawn"],
        zero.get("in", 0),
        zero.get("out", 0),
        added.get("in", 0),
        added.get("out", 0),
        moved.get("in", 0),
        moved.get("out", 0),
        layer["nonzero"],
        layer.get("positions"),
    )


def _short(error: Exception) -> str:
    return f"has no {error}" if isinstance(error, KeyError) else str(getattr(error, "strerror", None) or error)[:80]
