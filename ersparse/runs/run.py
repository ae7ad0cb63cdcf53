"""One run, from a composed configuration to a finished folder. Issuing its command again resumes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from omegaconf import OmegaConf

from ersparse.config.command_line import command
from ersparse.config.groups import build
from ersparse.config.schema import Settings
from ersparse.config.trainer_settings import TrainerSettings
from ersparse.config.types import plain
from ersparse.data.load import load_arrays
from ersparse.data.streamed import ImageData
from ersparse.distributed.rendezvous import Rendezvous
from ersparse.distributed.signals import interruptible
from ersparse.errors import UserError
from ersparse.lightning.auto_settings import first_device, resolve
from ersparse.methods.base import Standalone, method_of
from ersparse.runs import console as screen
from ersparse.runs.changed_data import check_unchanged_data
from ersparse.runs.checks import check_batches, check_budget, check_devices, check_ranks, check_warmup
from ersparse.runs.data_record import check_same_images
from ersparse.runs.device_errors import device_errors
from ersparse.runs.dry_run import dry_run
from ersparse.runs.lifecycle import disk_errors, execute
from ersparse.runs.network import initial_network
from ersparse.runs.path_errors import path_errors
from ersparse.runs.plan import Plan
from ersparse.runs.planner import make_plan
from ersparse.runs.record import NetworkRecord, RunRecord
from ersparse.sources.iterative_run import IterativeRunSource
from ersparse.sources.pruner import PrunerSource
from ersparse.storage.locks import exclusive
from ersparse.storage.objective import check_objective, value_of
from ersparse.storage.run_folder import RunFolder
from ersparse.storage.writable import check_writable

KEPT_ON_RESUME = ("accelerator", "precision", "execution")


@overload
def run(config: Mapping[str, Any], objective: None = None) -> Path: ...
@overload
def run(config: Mapping[str, Any], objective: str) -> tuple[Path, float]: ...
def run(config: Mapping[str, Any], objective: str | None = None) -> Path | tuple[Path, float]:
    """Run what `config` describes, and return the run folder.

    A finished run is left as it is; an interrupted one resumes from its last intact checkpoint.

    Args:
        config: as composed from conf/: plain values, or an OmegaConf configuration.
        objective: a figure that is returned as well, for a search of one's own: a metric such as val/acc, a number of
            run.json such as sparsity.realised, or flops.

    Returns:
        The run folder; with `objective` also its value, which is nan if it is not finite.

    Raises:
        UserError: bad input, before anything is created.
        RunFailed: the run had to stop: a full disk, a dead rank, layer collapse.
        KeyboardInterrupt: the run was interrupted, and can be resumed.
    """
    with screen.logging_to(None, screen.make_console()), interruptible():
        values: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
        if not isinstance(values, Mapping):
            raise UserError(f"config={values}: must be a mapping of groups and keys, as hydra.compose returns")
        values = plain({key: value for key, value in values.items() if key != "hydra"})  # of return_hydra_config=True
        with path_errors(values):
            settings = build(Settings, values)
            method = method_of(settings)
            if objective is not None:
                check_objective(objective, "objective", settings.dataset.validation)
            folder = method.run(settings) if isinstance(method, Standalone) else run_plan(make_plan(settings))
            return folder if objective is None else (folder, _objective(folder, objective))


def _objective(folder: Path, key: str) -> float:
    """Return a figure of a finished run.

    Raises:
        UserError: the run has no such figure, or `dry_run` has made none.
    """
    if (record := RunFolder(folder).read()) is None:
        raise UserError(f"objective={key}: needs a run; dry_run must be false")
    value = value_of(record, key, "objective")
    return math.nan if value is None else value


def run_plan(plan: Plan) -> Path:
    """Run what was planned, as `run` does."""
    settings = plan.settings
    check_devices(plan)
    check_ranks(settings.trainer, Rendezvous.here())
    check_budget(plan.resolved())
    folder = RunFolder(plan.folder)
    done = folder.read()
    is_done = not settings.fresh and done is not None and _is_done(done, plan)
    if not is_done:
        check_writable(plan.folder)
    if settings.dry_run:
        return dry_run(plan)
    if done and is_done:
        screen.make_console().print(f"already done: {screen.outcome(done, plan.folder)}", markup=False)
        if missing := _not_done(settings.trainer, done):
            screen.make_console().print(f"it has no {missing}; fresh=true runs it again", markup=False)
        return plan.folder
    trainer = _resolved_trainer(plan)
    if done is None:
        check_unchanged_data(plan)
    arrays = load_arrays(settings.dataset) if plan.method.trains else None
    if arrays:
        check_same_images(arrays, done, settings)
        check_batches(settings, trainer, arrays)
        check_warmup(plan, arrays)
    with disk_errors(folder):
        device = first_device(trainer) if plan.method.trains else torch.device("cpu")
        with device_errors(settings):
            plan = resolve_source(plan, lambda: arrays or load_arrays(settings.dataset), device)
        check_budget(plan)
        _execute(plan, trainer, arrays, folder)
    return plan.folder


def resolve_source(plan: Plan, images: Callable[[], ImageData], device: torch.device = torch.device("cpu")) -> Plan:
    """Return the plan with the densities of its source, which are computed if they are missing.

    Args:
        plan: the plan of the run.
        images: returns the data set; called only if a pruner's score uses images.
        device: where a pruner scores.

    Raises:
        UserError: the densities cannot be computed.
    """
    source = plan.source
    if isinstance(source, PrunerSource):
        network = partial(initial_network, plan.settings, plan.init_from)
        computed = source.compute(network, plan.graph, images, device)
        return replace(plan, source=computed)
    if isinstance(source, IterativeRunSource) and not source.finished_run():
        _run_prerequisite(plan, source)
    return plan.resolved()


def _run_prerequisite(plan: Plan, source: IterativeRunSource) -> None:
    """Do the run whose densities the plan uses; of several processes that need it, one does, and the others wait."""
    prerequisite = plan.prerequisite
    assert prerequisite
    lock = prerequisite.folder.parent / f"{prerequisite.folder.name}.lock"
    with exclusive(lock, product=prerequisite.folder):
        if not source.finished_run():
            screen.log.info(f"prerequisite, the run whose densities are used: {command(prerequisite.settings)}")
            run_plan(prerequisite)


def _execute(plan: Plan, trainer: TrainerSettings, arrays: ImageData | None, folder: RunFolder) -> None:
    """Draw or train under the lock of the folder."""
    checkpoints, console = plan.checkpoints(), screen.make_console()
    resume: list[tuple[int, Path]] = []

    def start(before: Mapping[str, Any] | None) -> NetworkRecord:
        if found := checkpoints.latest():
            resume.append(found)
        as_before = found and before
        return NetworkRecord(
            folder, plan.with_trainer(_resolved_trainer(plan, before) if as_before else trainer), before
        )

    def work(record: RunRecord) -> None:
        assert isinstance(record, NetworkRecord)
        if arrays is None:
            _draw(record, console)
        else:
            from ersparse.runs.multi_rank import train_on_all_ranks  # Lightning takes seconds to import

            with device_errors(plan.settings):
                train_on_all_ranks(record, arrays, checkpoints, resume[0] if resume else None, console)
        screen.log.info(screen.outcome(record.content, plan.folder))

    execute(
        folder,
        screen.title(plan),
        fresh=plan.settings.fresh,
        is_done=lambda record: _is_done(record, plan),
        start=start,
        work=work,
    )


def _resolved_trainer(plan: Plan, before: Mapping[str, Any] | None = None) -> TrainerSettings:
    """Return the trainer settings with every `auto` resolved: as in the record `before` of a run that is resumed.

    A run that changed its precision half-way would be two runs.

    Raises:
        UserError: this machine does not have the devices or the precision.
    """
    trainer = plan.settings.trainer
    if not plan.method.trains:
        return trainer
    if before:
        kept = {key: before["config"]["trainer"][key] for key in KEPT_ON_RESUME if getattr(trainer, key) == "auto"}
        trainer = trainer.model_copy(update=kept)
    return trainer.model_copy(update=resolve(trainer, plan.execution, 1 - plan.source.nominal))


def _draw(record: NetworkRecord, console: Any) -> None:
    """Draw and repair the source network, and record it."""
    source = record.plan.source
    record.describe_source(*source.repair(source.draw()))
    if console.is_terminal:
        console.print(screen.layer_table(record.content))
    record.save(state="done")


def _is_done(record: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether nothing is left to do. A lost network is restored from the last checkpoint, if there is one."""
    lost = plan.method.trains and not RunFolder(plan.folder).network.exists()
    return record["state"] == "done" and not (lost and plan.checkpoints().some())


def _not_done(trainer: TrainerSettings, done: Mapping[str, Any]) -> str:
    """Return the keys outside the identity that ask for more than a finished run has, as a list in words."""
    had = done["config"].get("trainer", {})
    keys = [key for key in ("keep_best", "profile") if getattr(trainer, key) and not had.get(key)]
    keys += ["metrics"] if set(trainer.metrics) - set(had.get("metrics", [])) else []
    return ", ".join(f"trainer.{key}" for key in keys)
