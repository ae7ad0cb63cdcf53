"""Options of hydra/launcher=slurm. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from ersparse.config.groups import SettingsGroup
from ersparse.config.types import Count, In
from ersparse.sweep.durations import parse_duration

STOP_RESERVE = 30  # seconds of `signal_before` that are reserved for stopping the run


def _seconds(value: Any) -> Any:
    """Return the seconds of a duration that is given as text; leave the check of other values to their type."""
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("clock", str(error)) from None  # type: ignore[arg-type]


class SlurmOptions(SettingsGroup):
    """The keys of conf/hydra/launcher/slurm.yaml, which explains each of them."""

    partition: str | None
    account: str | None
    qos: str | None
    time_limit: Annotated[int, BeforeValidator(_seconds), In("[60, inf)")]
    cpus_per_task: Count
    gpus: bool
    memory: str | None
    at_once: Count | None
    setup: list[str]
    sbatch: dict[str, str | int | bool]
    signal_before: Annotated[int, In("[0, 3600]")]
    requeues: Annotated[int, In("[0, inf)")]
    wait: bool

    @property
    def minutes(self) -> int:
        """The time limit in minutes, rounded up: SLURM counts no seconds."""
        return -(-self.time_limit // 60)
