"""What hydra/launcher=slurm may be told. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from ersparse.config.groups import SettingsGroup
from ersparse.config.types import Count, In

CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")
NOTICE = 30  # seconds of `signal_before` that are left for stopping


def seconds(value: Any) -> Any:
    """Seconds as a number, or SLURM's hours:minutes(:seconds), days-hours:minutes(:seconds)."""
    if isinstance(value, str):
        match = CLOCK.fullmatch(value)
        if match is None:
            raise PydanticCustomError("clock", "must be seconds, or hours:minutes:seconds, or days-hours:minutes")
        days, hours, minutes, rest = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + rest
    return value


class Options(SettingsGroup):
    """The keys of conf/hydra/launcher/slurm.yaml, which says what each is for."""

    partition: str | None
    account: str | None
    qos: str | None
    time_limit: Annotated[int, BeforeValidator(seconds), In("[60, inf)")]
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
        """The time limit as SLURM counts it."""
        return -(-self.time_limit // 60)
