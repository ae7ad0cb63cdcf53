"""The jobs of a sweep, all of them checked before the first starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ersparse.config.command_line import overrides as words_of
from ersparse.config.groups import build
from ersparse.config.schema import Settings, TrainerSettings
from ersparse.errors import UserError
from ersparse.lightning.auto_settings import resolve
from ersparse.runs.plan import Plan
from ersparse.runs.planner import make_plan
from ersparse.sources.iterative_run import IterativeRunSource
from ersparse.sweep.compose import Composer
from ersparse.sweep.job import Job


def jobs_of(lists: Sequence[Sequence[str]], composer: Composer, here: bool = True) -> list[Job]:
    """One job for each run that the lists of words name: a run that is named twice is there once.

    Args:
        here: whether they run on this machine, and must find their devices on it.

    Raises:
        UserError: a job is refused, with its reason; or two jobs are one run, told to happen in two ways.
    """
    found: dict[tuple[str | None, str, int], tuple[Job, Settings]] = {}
    for words in lists:
        settings = build(Settings, composer.values(words))
        planned = make_plan(settings)
        job = _job(words, planned, here)
        first, as_first = found.setdefault((settings.experiment, planned.hash, settings.seed), (job, settings))
        _same_way(first, as_first, settings)
    return [job for job, _ in found.values()]


def _job(words: Sequence[str], planned: Plan, here: bool) -> Job:
    settings, trains = planned.settings, planned.method.trains
    gpu = trains and here and _accelerator(settings.trainer) == "gpu"
    asked = settings.trainer.execution
    return Job(
        words=tuple(words),
        folder=planned.folder,
        root=Path(settings.paths.root),
        devices=settings.trainer.ranks if trains else 1,
        nodes=settings.trainer.num_nodes if trains else 1,
        gpu=gpu,
        epochs=planned.epochs if trains else 0,
        fresh=settings.fresh,
        settings=settings,
        densities={
            layer.name: density for layer, density in zip(planned.layers, planned.source.densities, strict=True)
        },
        execution=asked if asked != "auto" else "masked" if gpu or not here else planned.execution,
        first=_first(planned, here),
    )


def _first(planned: Plan, here: bool) -> Job | None:
    first, source = planned.prerequisite, planned.source
    if first is None or (isinstance(source, IterativeRunSource) and source.finished_run()):
        return None
    return _job(words_of(first.settings), first, here)


def _accelerator(trainer: TrainerSettings) -> str:
    """Where it trains. What `auto` precision would be is not asked: the answer would occupy the GPU."""
    if trainer.num_nodes > 1:
        raise UserError(f"trainer.num_nodes={trainer.num_nodes}: must be 1 without hydra/launcher=slurm")
    asked = "32-true" if trainer.precision == "auto" else trainer.precision
    return str(resolve(trainer.model_copy(update={"precision": asked}))["accelerator"])


def _same_way(job: Job, first: Settings, second: Settings) -> None:
    """Refuses two sets of settings that are the same run and differ in where or how it happens."""
    if first is second:
        return
    ways = dict(_outside(first, "", False)), dict(_outside(second, "", False))
    for key, value in ways[0].items():
        other = ways[1].get(key)
        if other != value:
            raise UserError(
                f"{key}={value},{other}: is no part of a run's identity, both would be {job.name}; "
                f"pair it with a key that is, as in seed,{key}=[0,{value}],[1,{other}]"
            )


def _outside(group: BaseModel, prefix: str, marked: bool) -> Iterator[tuple[str, Any]]:
    """Keys with their values of what is no part of a run's identity."""
    for key, info in type(group).model_fields.items():
        marks = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        value, outside = getattr(group, key), marked or not marks.get("identity", True)
        if isinstance(value, BaseModel):
            yield from _outside(value, f"{prefix}{key}.", outside)
        elif outside and isinstance(value, Mapping):
            yield from ((f"{prefix}{key}.{name}", item) for name, item in value.items() if name != "_target_")
        elif outside:
            yield f"{prefix}{key}", value
