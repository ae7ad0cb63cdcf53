"""Run of a theory experiment: measure its cells, save each when it is done, then write tables and plots.

An interrupted run resumes after the last saved cell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from rich.progress import track

from ersparse.config.schema import Settings
from ersparse.config.types import Count, In
from ersparse.methods.base import Standalone
from ersparse.runs import console as screen
from ersparse.runs.identity import run_hash
from ersparse.runs.lifecycle import disk_errors, execute
from ersparse.runs.record import RunRecord
from ersparse.sparse.rng import generator
from ersparse.storage.atomic import write_json
from ersparse.storage.run_folder import RunFolder
from ersparse.storage.writable import check_writable
from ersparse.theory.experiments import Cell, Experiment, ExperimentOptions, Result, experiment

Open = Annotated[float, In("(0, 1)")]


class Theory(Standalone):
    """Settings of an experiment on a lemma or theorem; the keys are those of `experiments.Options`."""

    name: Literal["lemma", "weak", "conv", "strong", "lower"]
    p: Annotated[list[Annotated[float, In("(0, 1]")]], Field(min_length=1)] | None
    delta: Open
    epsilon: Open
    trials: Count | None

    def run(self, settings: Settings) -> Path:
        """Measure the cells that have no result yet, and return the run folder."""
        options = ExperimentOptions(self.p, self.delta, self.epsilon, self.trials, settings.scale.name)
        job = TheoryRun(self, settings, options)
        console = screen.make_console()
        done = job.folder.read()
        is_done = done is not None and done["state"] == "done" and not settings.fresh
        if not is_done:
            check_writable(job.folder.path)
        if settings.dry_run:
            state = done["state"] if done else "new"
            console.print(f"{job.title}\nstate: {state}, {len(job.cells)} cells", markup=False)
        elif is_done:
            console.print(f"already done: {job.folder.path}", markup=False)
        else:
            with disk_errors(job.folder):
                _execute(job, settings, console)
        return job.folder.path


def _execute(job: TheoryRun, settings: Settings, console: Any) -> None:
    """Measure the cells under the lock of the folder."""
    execute(
        job.folder,
        job.title,
        fresh=settings.fresh,
        is_done=lambda record: bool(record["state"] == "done"),
        start=lambda before: RunRecord(job.folder, job.hash, settings.seed, job.config, len(job.cells)),
        work=lambda record: _work(job, record, console),
        resume_hint="the same command resumes after the last finished cell",
    )


class TheoryRun:
    """Cells, run folder and resolved configuration of one run; the list of cells determines its hash."""

    def __init__(self, method: Theory, settings: Settings, options: ExperimentOptions) -> None:
        self.settings, self.options, self.seed = settings, options, settings.seed_of("mask")
        self.experiment: Experiment = experiment(method.name)
        self.cells = self.experiment.cells(options)
        explicit_seeds = {key: seed for key, seed in settings.seeds.model_dump().items() if seed is not None}
        self.hash = run_hash({"theory": method.name, "cells": self.cells, "seeds": explicit_seeds})
        root = Path(settings.paths.root) / (settings.experiment or f"theory_{method.name}")
        self.folder = RunFolder(root / f"{method.name}-{self.hash[:8]}" / f"s{settings.seed}")
        self.title = f"theory {method.name}, scale {options.scale}, seed {settings.seed}: {self.folder.path}"
        self.config = {
            "method": method.model_dump(by_alias=True),
            **settings.model_dump(include={"scale", "experiment", "seed", "seeds", "paths"}),
        }


def _work(job: TheoryRun, record: RunRecord, console: Any) -> None:
    """Measure the cells, write tables and plots, and record the metrics; the progress counts cells as epochs."""
    results = _measure(job, record, console)
    record.save(state="done", metrics=job.experiment.report(job.options, results, job.folder.path))
    for key, value in record.content["metrics"].items():
        screen.log.info(f"{key} {value:.6g}" if value is not None else f"{key} not measured")
    screen.log.info(f"done: {job.folder.path}")


def _measure(job: TheoryRun, record: RunRecord, console: Any) -> list[tuple[Cell, Result]]:
    """Return the result of every cell.

    Each cell has its own random generator, so the results depend neither on the order nor on interruptions.
    """
    path = job.folder.path / "cells.json"
    found: dict[str, Result] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    results: list[tuple[Cell, Result]] = []
    for cell in track(job.cells, "measuring", console=console, disable=not console.is_terminal, transient=True):
        key = json.dumps(cell, sort_keys=True)
        if key not in found:
            found[key] = job.experiment.measure(cell, generator(job.seed, "theory", key))
            write_json(path, found)
            record.save(progress={"epoch": len(results) + 1, "epochs": len(job.cells)})
            screen.log.debug(f"{key}: {json.dumps(found[key])}")
        results.append((cell, json.loads(json.dumps(found[key]))))
    record.content["progress"] = {"epoch": len(job.cells), "epochs": len(job.cells)}
    return results
