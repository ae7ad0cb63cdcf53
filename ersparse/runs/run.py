"""One run, from a composed configuration to a finished folder. Issuing it again resumes it."""

from __future__ import annotations

import errno
import os
import socket
import traceback
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ersparse.config.schema import DatasetSettings, Settings, TrainerSettings, build
from ersparse.data.arrays import Arrays
from ersparse.data.batches import EVALUATED, smallest
from ersparse.distributed import launcher
from ersparse.distributed.rendezvous import Rendezvous
from ersparse.distributed.signals import interruptible
from ersparse.errors import RunFailed, UserError
from ersparse.lightning.auto_settings import resolve
from ersparse.methods.base import Standalone, method_of
from ersparse.runs import console as screen
from ersparse.runs.plan import Plan, make_plan
from ersparse.runs.record import RunRecord
from ersparse.sources.iterative_run import IterativeRunSource
from ersparse.sources.pruner import PrunerSource
from ersparse.sources.select import as_known, provide
from ersparse.storage.checkpoints import CheckpointFiles
from ersparse.storage.run_folder import RunFolder

AGAIN = "the same command goes on from the last finished epoch"
FULL_OR_READ_ONLY = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}


def run(config: Mapping[str, Any]) -> Path:
    """Runs what `config` says, and returns the run folder.

    A finished run is left as it is; an interrupted one goes on from its last whole checkpoint.

    Args:
        config: plain values, as composed from conf/.

    Raises:
        UserError: bad input, before anything is created.
        KeyboardInterrupt: the run was interrupted, and can be resumed.
    """
    with screen.logging_to(None, screen.make_console()), interruptible():
        settings = build(Settings, config)
        method = method_of(settings)
        return method.run(settings) if isinstance(method, Standalone) else run_planned(make_plan(settings))


def run_planned(planned: Plan) -> Path:
    """Runs what was planned, as `run` does."""
    settings = planned.settings
    trainer = settings.trainer
    if planned.method.trains:
        trainer = trainer.model_copy(update=resolve(trainer, planned.execution))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("WORLD_SIZE: must not be set; a run starts its own ranks, trainer.devices says how many")
    _same_number(settings.trainer, Rendezvous.here())
    if settings.dry_run:
        return _dry_run(planned)
    folder = RunFolder(planned.folder)
    done = folder.read()
    if not settings.fresh and done and _is_done(done, planned):
        screen.make_console().print(f"already done: {screen.outcome(done, planned.folder)}", markup=False)
        return planned.folder
    arrays = None
    if planned.method.trains:
        arrays = load_arrays(settings)
        _enough_for_all(settings, trainer, arrays)
    try:
        planned = provide(planned, lambda: arrays or load_arrays(settings))
        with folder.acquire():
            _first_rank(planned, trainer, arrays, folder)
    except OSError as error:
        if _is_mendable(error):
            raise RunFailed(f"{planned.folder}: {error}; {AGAIN}") from None
        raise
    return planned.folder


def _same_number(trainer: TrainerSettings, meeting: Rendezvous | None) -> None:
    """The ranks that a cluster started are those that were asked for; nodes are only there if it started some."""
    if meeting and meeting.size != trainer.ranks:
        raise UserError(f"{_ranks(trainer)}: the cluster started {meeting.size} tasks; must be as many")
    if trainer.num_nodes > 1 and meeting is None:
        raise UserError(f"trainer.num_nodes={trainer.num_nodes}: must be 1 without hydra/launcher=slurm")


def _is_mendable(error: Exception) -> bool:
    """A full or read-only disk, a rank that died, a network that collapsed: nothing that a traceback would explain."""
    return isinstance(error, ChildProcessError | RunFailed) or getattr(error, "errno", None) in FULL_OR_READ_ONLY


def _is_done(record: Mapping[str, Any], planned: Plan) -> bool:
    """A finished run whose network was lost is made whole from its last checkpoint, where that is still there."""
    lost = planned.method.trains and not RunFolder(planned.folder).network.exists()
    return record["state"] == "done" and not (lost and planned.checkpoints().some())


def _enough_for_all(settings: Settings, trainer: TrainerSettings, arrays: Arrays) -> None:
    """Each rank needs two images of every training batch, for normalisation, and one of every other batch."""
    held_out = round(settings.dataset.validation * len(arrays.y_train))
    least = smallest(len(arrays.y_train) - held_out, settings.dataset.batch_size) // 2
    for count in (len(arrays.y_test), held_out):
        least = min(least, smallest(count, EVALUATED)) if count else least
    if trainer.ranks > max(1, least):
        raise UserError(
            f"{_ranks(trainer)}: must be at most {max(1, least)} with dataset.batch_size="
            f"{settings.dataset.batch_size} and so many images, or a rank would get none of the smallest batch"
        )


def _ranks(trainer: TrainerSettings) -> str:
    nodes = f" times trainer.num_nodes={trainer.num_nodes}" if trainer.num_nodes > 1 else ""
    return f"trainer.devices={trainer.devices}{nodes}"


def load_arrays(settings: Settings) -> Arrays:
    """The images that the settings name, checked, enough, and in the size asked for."""
    dataset = settings.dataset
    arrays = images_of(dataset)
    held_out = round(dataset.validation * len(arrays.y_train))
    if len(arrays.y_train) - held_out < 2 or (dataset.validation and not held_out):
        raise UserError(
            f"dataset.validation={dataset.validation}: leaves {len(arrays.y_train) - held_out} training and "
            f"{held_out} validation images, both need some"
        )
    return arrays


def images_of(dataset: DatasetSettings) -> Arrays:
    """The images of a data set, checked and in the size asked for."""
    arrays: Arrays = dataset.resolve()(Path(dataset.root), dataset.download)
    return arrays.check(f"dataset={dataset.name}", dataset.num_classes, dataset.channels).resized(dataset.image_size)


def _first_rank(planned: Plan, trainer: TrainerSettings, arrays: Arrays | None, folder: RunFolder) -> None:
    settings, console = planned.settings, screen.make_console()
    if settings.fresh:
        folder.clear()
    before = folder.read()
    if before and _is_done(before, planned):  # another process finished it while this one waited
        return
    with screen.logging_to(folder.log, None):
        screen.log.info(screen.title(planned))
        if before is None and (folder.path / "run.json").exists():
            screen.log.warning("run.json is damaged; it is written anew")
        files = planned.checkpoints()
        found = files.latest()
        if found and before:
            trainer = _as_before(settings.trainer, trainer, before)
        config = settings.model_dump(by_alias=True) | {"trainer": trainer.model_dump()}
        record = RunRecord(folder, planned, config, before)
        try:
            folder.write_config(config)
            record.save()
            if arrays is None:
                _draw(planned, record, console)
            else:
                _train(planned, trainer, arrays, files, record, found, console)
        except (KeyboardInterrupt, SystemExit):
            record.save(state="preempted")
            screen.log.warning(f"interrupted; {AGAIN}")
            raise KeyboardInterrupt from None
        except Exception as error:
            screen.log.debug(traceback.format_exc())
            reason = str(error) if _is_mendable(error) else f"{type(error).__name__}: {error}"
            with suppress(OSError):  # on a full disk
                record.save(state="failed", error=reason)
            raise
        screen.log.info(screen.outcome(record.content, planned.folder))


def _as_before(asked: TrainerSettings, now: TrainerSettings, before: Mapping[str, Any]) -> TrainerSettings:
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
    trainer: TrainerSettings,
    arrays: Arrays,
    files: CheckpointFiles,
    record: RunRecord,
    found: tuple[int, Path] | None,
    console: Any,
) -> None:
    from ersparse.distributed.environment import RankEnvironment  # Lightning takes seconds to import
    from ersparse.runs.train import train

    resume = found[1] if found else None
    if found:
        screen.log.info(f"resuming after epoch {found[0]}")
        record.save(progress={"epoch": found[0], "epochs": planned.epochs})
    meeting = Rendezvous.here()
    if trainer.ranks == 1:
        return train(planned, trainer, arrays, files, resume, console, record, None)
    address = socket.gethostname() if meeting else "127.0.0.1"
    port = launcher.free_port("" if meeting else address)
    decided = {
        "settings": planned.settings.model_dump(by_alias=True),
        "trainer": trainer.model_dump(),
        "resume": str(resume) if resume else None,
        "size": trainer.ranks,
        "address": address,
        "port": port,
    }
    first = RankEnvironment(0, trainer.ranks, address, port)
    if meeting:
        meeting.announce(decided)
        return train(planned, trainer, arrays, files, resume, console, record, first)
    with launcher.launch_ranks(trainer.ranks, decided, partial(_ended, record)):
        train(planned, trainer, arrays, files, resume, console, record, first)


def _ended(record: RunRecord, state: str, line: str) -> None:
    record.save(state=state, error=line if state == "failed" else None)
    screen.log.error(f"{line}; {AGAIN}")


def _draw(planned: Plan, record: RunRecord, console: Any) -> None:
    """Draws and repairs the source network, and records it."""
    drawn = planned.source.repair(planned.source.draw()) if planned.source else ({}, {})
    record.describe_source(*drawn)
    if console.is_terminal:
        console.print(screen.layer_table(record.content))
    record.save(state="done")


def _dry_run(planned: Plan) -> Path:
    """Says what the run would do; creates nothing."""
    console = screen.make_console()
    planned = as_known(planned)
    before = RunFolder(planned.folder).read()
    state = before["state"] if before else "new"
    epochs = f", {planned.epochs} epochs" if planned.method.trains else ""
    console.print(f"{screen.title(planned)}\nstate: {state}{epochs}", markup=False)
    if isinstance(planned.source, PrunerSource | IterativeRunSource):
        console.print(planned.source.announcement(), markup=False)
        return planned.folder
    densities = planned.source.densities if planned.source else [1.0] * len(planned.layers)
    for layer, density in zip(planned.layers, densities, strict=True):
        console.print(f"  {layer.name:40} {layer.size:>10,}  density {density:.6g}", markup=False)
    console.print(f"nominal density {planned.nominal:.6g}, expected {planned.expected:.6g}", markup=False)
    return planned.folder
