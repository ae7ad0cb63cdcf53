"""One run, from a composed configuration to a finished folder. Issuing it again resumes it."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ersparse.data.arrays import Arrays
from ersparse.errors import UserError
from ersparse.lightning.hardware import resolve
from ersparse.methods.base import Standalone, method_of
from ersparse.runs import console as screen
from ersparse.runs.checkpoints import CheckpointFiles
from ersparse.runs.folder import RunFolder
from ersparse.runs.plan import Plan, plan
from ersparse.runs.record import Record
from ersparse.settings import Settings, Trainer, build

RANK_ZERO = "ERSPARSE_RANK_ZERO"  # what the first rank decided, for the ranks that it starts


def run(config: Mapping[str, Any]) -> Path:
    """Runs what `config` says, and returns the run folder.

    A finished run is left as it is; an interrupted one goes on from its last whole checkpoint.

    Args:
        config: plain values, as composed from conf/.

    Raises:
        UserError: bad input, before anything is created.
        KeyboardInterrupt: the run was interrupted, and can be resumed.
    """
    settings = build(Settings, config)
    method = method_of(settings)
    if isinstance(method, Standalone):
        return method.run(settings)
    planned = plan(settings)
    trainer = (
        settings.trainer.model_copy(update=resolve(settings.trainer)) if planned.method.trains else settings.trainer
    )
    if RANK_ZERO in os.environ:
        return _other_rank(planned)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("WORLD_SIZE: must not be set; a run starts its own ranks, trainer.devices says how many")
    if settings.dry_run:
        return _dry_run(planned)
    folder = RunFolder(planned.folder)
    done = folder.read()
    if not settings.fresh and done and done["state"] == "done":
        screen.make_console().print(f"already done: {screen.outcome(done, planned.folder)}", markup=False)
        return planned.folder
    arrays = load_arrays(settings) if planned.method.trains else None
    with folder.acquire():
        _first_rank(planned, trainer, arrays, folder)
    return planned.folder


def load_arrays(settings: Settings) -> Arrays:
    """The images that the settings name, checked and in the size asked for."""
    dataset = settings.dataset
    arrays: Arrays = dataset.resolve()(Path(dataset.root), dataset.download)
    arrays = arrays.check(f"dataset={dataset.name}", dataset.num_classes, dataset.channels)
    held_out = round(dataset.validation * len(arrays.y_train))
    if len(arrays.y_train) - held_out < 2 or (dataset.validation and not held_out):
        raise UserError(
            f"dataset.validation={dataset.validation}: leaves {len(arrays.y_train) - held_out} training and "
            f"{held_out} validation images, both need some"
        )
    return arrays.resized(dataset.image_size)


def _first_rank(planned: Plan, trainer: Trainer, arrays: Arrays | None, folder: RunFolder) -> None:
    settings, console = planned.settings, screen.make_console()
    if settings.fresh:
        folder.clear()
    before = folder.read()
    if before and before["state"] == "done":  # another process finished it while this one waited
        return
    files = CheckpointFiles(folder.checkpoints, f"{planned.hash}/{settings.seed}")
    with screen.logging_to(folder.log, console):
        screen.log.info(screen.title(planned))
        found = files.latest()
        if found and before:
            trainer = _as_before(settings.trainer, trainer, before)
        config = settings.model_dump(by_alias=True) | {"trainer": trainer.model_dump()}
        record = Record(folder, planned, config, before)
        folder.write_config(config)
        record.save()
        try:
            if arrays is None:
                _draw(planned, record, console)
            else:
                _train(planned, trainer, arrays, folder, files, record, found, console)
        except (KeyboardInterrupt, SystemExit):
            record.save(state="preempted")
            screen.log.warning("interrupted; the same command goes on from the last finished epoch")
            raise KeyboardInterrupt from None
        except Exception as error:
            record.save(state="failed", error=f"{type(error).__name__}: {error}")
            screen.log.debug(traceback.format_exc())
            raise
        screen.log.info(screen.outcome(record.content, planned.folder))


def _as_before(asked: Trainer, now: Trainer, before: Mapping[str, Any]) -> Trainer:
    """`auto` stays what it was when the run began: a run that changes its precision half-way is two runs."""
    kept = {
        key: before["config"]["trainer"][key]
        for key in ("accelerator", "precision", "execution")
        if getattr(asked, key) == "auto"
    }
    resolve(now.model_copy(update=kept))
    return now.model_copy(update=kept)


def _train(
    planned: Plan,
    trainer: Trainer,
    arrays: Arrays,
    folder: RunFolder,
    files: CheckpointFiles,
    record: Record,
    found: tuple[int, Path] | None,
    console: Any,
) -> None:
    from ersparse.runs.train import train  # Lightning takes seconds to import

    resume = found[1] if found else None
    if found:
        screen.log.info(f"resuming after epoch {found[0]}")
        record.save(progress={"epoch": found[0], "epochs": planned.settings.epochs()})
    if trainer.devices * trainer.num_nodes > 1:
        decided = {"resume": str(resume) if resume else None, "trainer": trainer.model_dump()}
        os.environ[RANK_ZERO] = json.dumps(decided)
    try:
        train(planned, trainer, arrays, folder, files, record, resume, console)
    finally:
        os.environ.pop(RANK_ZERO, None)


def _other_rank(planned: Plan) -> Path:
    """A rank that the first one started: it trains as told, and writes nothing."""
    from ersparse.runs.train import train

    decided = json.loads(os.environ[RANK_ZERO])
    settings, folder = planned.settings, RunFolder(planned.folder)
    files = CheckpointFiles(folder.checkpoints, f"{planned.hash}/{settings.seed}")
    resume = Path(decided["resume"]) if decided["resume"] else None
    console = screen.make_console()
    with screen.logging_to(None, console):
        trainer = Trainer(**decided["trainer"])
        train(planned, trainer, load_arrays(settings), folder, files, None, resume, console)
    return planned.folder


def _draw(planned: Plan, record: Record, console: Any) -> None:
    """Draws and repairs the source network, and records it."""
    drawn = planned.source.repair(planned.source.draw()) if planned.source else ({}, {})
    record.describe_source(*drawn)
    if console.is_terminal:
        console.print(screen.layer_table(record.content))
    record.save(state="done")


def _dry_run(planned: Plan) -> Path:
    """Says what the run would do; creates nothing."""
    console = screen.make_console()
    before = RunFolder(planned.folder).read()
    state = before["state"] if before else "new"
    epochs = f", {planned.settings.epochs()} epochs" if planned.method.trains else ""
    console.print(f"{screen.title(planned)}\nstate: {state}{epochs}", markup=False)
    densities = planned.source.densities if planned.source else [1.0] * len(planned.layers)
    for layer, density in zip(planned.layers, densities, strict=True):
        console.print(f"  {layer.name:40} {layer.size:>10,}  density {density:.6g}", markup=False)
    console.print(f"nominal density {planned.nominal:.6g}, expected {planned.expected:.6g}", markup=False)
    return planned.folder
