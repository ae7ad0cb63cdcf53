"""No dashboard: metrics.csv and run.json only."""

from __future__ import annotations

from typing import Any, ClassVar

from ersparse.runs.loggers.base import RunLogger
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord


class CsvLogger(RunLogger):
    """Adds nothing to metrics.csv and run.json."""

    shows_masks: ClassVar[bool] = False

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        return False
