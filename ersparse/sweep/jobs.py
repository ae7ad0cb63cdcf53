"""The jobs of a sweep, all of them checked before the first starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ersparse.errors import UserError
from ersparse.lightning.hardware import resolve
from ersparse.runs.plan import Plan, plan
from ersparse.settings import Settings, build
from ersparse.sweep.compose import Composer


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        words: its command line.
        folder: where it leaves its results.
        devices: processes that it starts.
        gpu: whether it trains on GPUs.
        epochs: of training; 0 draws only.
    """

    words: tuple[str, ...]
    folder: Path
    settings: Settings = field(repr=False)
    devices: int
    gpu: bool
    epochs: int

    @property
    def name(self) -> str:
        """The run folder without its root."""
        return str(self.folder.relative_to(self.settings.paths.root))


def jobs_of(lists: Sequence[Sequence[str]], composer: Composer) -> list[Job]:
    """One job for each run that the lists of words name: a run that is named twice is there once.

    Raises:
        UserError: a job is refused, with its reason; or two jobs are one run, told to happen in two ways.
    """
    found: dict[tuple[str | None, str, int], Job] = {}
    for words in lists:
        settings = build(Settings, composer.values(words))
        planned = plan(settings)
        run = (settings.experiment, planned.hash, settings.seed)
        job = _job(words, planned)
        _same_way(found.setdefault(run, job), job)
    return list(found.values())


def _job(words: Sequence[str], planned: Plan) -> Job:
    settings, trains = planned.settings, planned.method.trains
    trainer = settings.trainer
    gpu = False
    if trains:  # what its precision would be is the job's question: asking here would occupy the GPU
        asked = "32-true" if trainer.precision == "auto" else trainer.precision
        gpu = resolve(trainer.model_copy(update={"precision": asked}))["accelerator"] == "gpu"
    devices = trainer.devices * trainer.num_nodes if trains else 1
    return Job(tuple(words), planned.folder, settings, devices, gpu, settings.epochs() if trains else 0)


def _same_way(first: Job, second: Job) -> None:
    """Refuses two jobs that are the same run and differ in where or how it happens."""
    ways = [dict(_outside(job.settings, "", False)) for job in (first, second)]
    for key, value in ways[0].items():
        other = ways[1].get(key)
        if other != value:
            raise UserError(
                f"{key}={value},{other}: is no part of a run's identity, both would be {first.name}; "
                f"pair it with a key that is, as in seed,{key}=[0,{value}],[1,{other}]"
            )


def _outside(group: BaseModel, prefix: str, marked: bool) -> Iterator[tuple[str, Any]]:
    """Keys with their values of what is no part of a run's identity."""
    for key, info in type(group).model_fields.items():
        marks = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        value, outside = getattr(group, key), marked or not marks.get("identity", True)
        if isinstance(value, BaseModel):
            yield from _outside(value, f"{prefix}{key}.", outside)
        elif outside:
            yield f"{prefix}{key}", value
