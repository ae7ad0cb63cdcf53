"""The jobs of a sweep, all of which are checked before the first starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ersparse.config.command_line import overrides as overrides_of
from ersparse.config.groups import build
from ersparse.config.schema import Settings
from ersparse.config.trainer_settings import TrainerSettings
from ersparse.errors import UserError
from ersparse.lightning.auto_settings import resolve
from ersparse.runs.path_errors import path_errors
from ersparse.runs.plan import Plan
from ersparse.runs.planner import make_plan
from ersparse.runs.same_code import check_same_code_in_sweep
from ersparse.sources.iterative_run import IterativeRunSource
from ersparse.storage.writable import check_writable
from ersparse.sweep.compose import Composer
from ersparse.sweep.job import Job
from ersparse.sweep.job_state import is_done


def build_jobs(override_lists: Sequence[Sequence[str]], composer: Composer, local: bool = True) -> list[Job]:
    """Return the jobs with these overrides. Duplicate jobs are merged.

    Args:
        override_lists: the overrides of each job.
        composer: composes their configurations.
        local: whether they run on this machine, and so must find their devices on it.

    Raises:
        UserError: a job is refused, its root cannot be written, or two jobs are the same run with different settings
            outside its identity.
    """
    found: dict[tuple[str | None, str, int], tuple[Job, Settings]] = {}
    for overrides in override_lists:
        values = composer.compose(overrides)
        with path_errors(values):
            settings = build(Settings, values)
            plan = make_plan(settings)
        job = _job(overrides, plan, local)
        first, first_settings = found.setdefault((settings.experiment, plan.hash, settings.seed), (job, settings))
        _check_equal_outside_identity(first, first_settings, settings)
    jobs = [job for job, _ in found.values()]
    for root in {job.root: None for job in jobs if not is_done(job)}:
        check_writable(root)
    return jobs


def _job(overrides: Sequence[str], plan: Plan, local: bool) -> Job:
    settings, trains = plan.settings, plan.method.trains
    gpu = trains and local and _accelerator(settings.trainer) == "gpu"
    return Job(
        overrides=tuple(overrides),
        folder=plan.folder,
        root=Path(settings.paths.root),
        devices=settings.trainer.ranks if trains else 1,
        nodes=settings.trainer.num_nodes if trains else 1,
        gpu=gpu,
        epochs=plan.epochs if trains else 0,
        fresh=settings.fresh,
        settings=settings,
        densities={layer.name: density for layer, density in zip(plan.layers, plan.source.densities, strict=True)},
        execution=_execution(plan, gpu, local),
        prerequisite=_prerequisite(plan, local),
    )


def _execution(plan: Plan, gpu: bool, local: bool) -> str:
    """Return how the run computes its steps; `auto` is "masked" on a GPU, and on a machine that is not known yet."""
    if plan.settings.trainer.execution != "auto":
        return plan.settings.trainer.execution
    return "masked" if gpu or not local else plan.execution


def _prerequisite(plan: Plan, local: bool) -> Job | None:
    """Return the unfinished run that has this run's layer densities, if there is one."""
    prerequisite, source = plan.prerequisite, plan.source
    if prerequisite is None or (isinstance(source, IterativeRunSource) and source.finished_run()):
        return None
    return _job(overrides_of(prerequisite.settings), prerequisite, local)


def _accelerator(trainer: TrainerSettings) -> str:
    """Return the accelerator. The precision that `auto` resolves to is not asked for, as this would occupy the GPU."""
    if trainer.num_nodes > 1:
        raise UserError(f"trainer.num_nodes={trainer.num_nodes}: must be 1 without hydra/launcher=slurm")
    precision = "32-true" if trainer.precision == "auto" else trainer.precision
    return str(resolve(trainer.model_copy(update={"precision": precision}))["accelerator"])


def _check_equal_outside_identity(job: Job, first: Settings, second: Settings) -> None:
    """Check that two settings of the same run agree in the keys that are not part of its identity.

    Raises:
        UserError: they differ, as in two numbers of devices for one run.
    """
    if first is second:
        return
    check_same_code_in_sweep(job.name, first, second)
    values, others = (dict(_outside_identity(settings, "", False)) for settings in (first, second))
    for key, value in values.items():
        other = others.get(key)
        if other != value:
            raise UserError(
                f"{key}={value},{other}: is no part of a run's identity, both would be {job.name}; "
                f"pair it with a key that is, as in seed,{key}=[0,{value}],[1,{other}]"
            )


def _outside_identity(group: BaseModel, prefix: str, marked: bool) -> Iterator[tuple[str, Any]]:
    """Yield the keys, with their values, that are not part of a run's identity.

    Args:
        group: settings whose fields are read, nested groups included.
        prefix: of their keys, such as "trainer.".
        marked: whether the whole group is outside the identity.
    """
    for key, info in type(group).model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        value, outside = getattr(group, key), marked or not extra.get("identity", True)
        if isinstance(value, BaseModel):
            yield from _outside_identity(value, f"{prefix}{key}.", outside)
        elif outside and isinstance(value, Mapping):
            yield from ((f"{prefix}{key}.{name}", item) for name, item in value.items() if name != "_target_")
        elif outside:
            yield f"{prefix}{key}", value
