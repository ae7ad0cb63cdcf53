"""Run folders as values: what a report needs of each run.json, and which of them cannot be read. Imports no torch."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ersparse.storage.run_json import state_of

SCHEMA = 1
CURVES = ("test/acc", "train/loss", "rewire/overlap", "rewire/explored")  # of metrics.csv


class LayerRow(NamedTuple):
    """One layer of one run; "in" concerns output channels, "out" input channels. `positions`: uses by an image."""

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
    """One run.

    Attributes:
        path: of its folder, below the folder that was read.
        state: done, running, interrupted, preempted, failed.
        experiment: the preset's name, or "runs".
        kind: "accuracy", "draw" (nothing was trained), or "theory" (no network).
    """

    path: Path
    experiment: str
    kind: str
    hash: str
    seed: int
    state: str
    config: dict[str, Any]
    sparsity: dict[str, Any]
    layers: list[LayerRow]
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
        """Of a forward pass of one image: of the kept weights, and of all; a multiplication and an addition are two.

        None of a run that has not counted positions.
        """
        if not self.layers or any(layer.positions is None for layer in self.layers):
            return None
        kept = sum(2 * layer.nonzero * (layer.positions or 0) for layer in self.layers)
        return kept, sum(2 * layer.size * (layer.positions or 0) for layer in self.layers)


@dataclass(frozen=True)
class Skipped:
    """A run.json that is no part of the report, and why."""

    path: Path
    why: str


def read_runs(root: Path) -> tuple[list[Run], list[Skipped]]:
    """Every run below `root` in the order of names, and those that cannot be read."""
    runs: list[Run] = []
    skipped: list[Skipped] = []
    for folder in _folders(root):
        path = folder.relative_to(root)
        try:
            runs.append(_run(path, folder, json.loads((folder / "run.json").read_bytes())))
        except _OtherSchema as error:
            skipped.append(Skipped(path / "run.json", str(error)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            skipped.append(Skipped(path / "run.json", f"cannot be read ({_short(error)})"))
    return runs, skipped


def read_curve(folder: Path) -> dict[str, list[float]]:
    """metrics.csv of a run folder, by column: "epoch" and those of `CURVES` that it has; empty where there is none."""
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            rows = list(csv.reader(file))
        head, rows = rows[0], rows[1:]
        wanted = [(name, head.index(name)) for name in ("epoch", *CURVES) if name in head]
        return {name: [float(row[column]) for row in rows] for name, column in wanted}
    except (OSError, ValueError, IndexError):
        return {}


class _OtherSchema(ValueError):
    """A run.json that another version of this program wrote."""


def _folders(root: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(root):
        if "run.json" in files:
            folders.clear()  # a run holds no other
            yield Path(path)
        folders.sort()


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
        config={key: value for key, value in config.items() if key not in ("paths", "logger", "fresh", "dry_run")},
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


def _layer(layer: dict[str, Any]) -> LayerRow:
    zero, added, moved = (layer.get(key) or {} for key in ("zero_degree", "edges_added", "edges_moved"))
    return LayerRow(
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
