"""Several loggers at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pydantic import PrivateAttr

from ersparse.runs.loggers.base import RunLogger
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord


class SeveralLoggers(RunLogger):
    """Passes everything to each of its loggers.

    Attributes:
        loggers: in the order in which they were named.
    """

    loggers: list[Any]
    _created: list[tuple[RunLogger, Any]] = PrivateAttr(default_factory=list)

    @property
    def shows_masks(self) -> bool:  # type: ignore[override]
        """Whether any of the loggers shows curves of mask changes."""
        return any(logger.shows_masks for logger in self.loggers)

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        """Return the list of Lightning's loggers; those of loggers without one are left out."""
        self._created.extend((each, made) for each in self.loggers if (made := each.created(plan, record)))
        return [made for _, made in self._created] or False

    def describe_layers(self, logger: Any, record: NetworkRecord) -> None:
        for each, made in self._created:
            each.describe_layers(made, record)

    def summarise(self, logger: Any, record: NetworkRecord) -> None:
        for each, made in self._created:
            each.summarise(made, record)

    @contextmanager
    def finished(self, logger: Any) -> Iterator[None]:
        """End the runs of all loggers with the block; the end of one does not keep another from ending."""
        with ExitStack() as stack:
            for each, made in self._created:
                stack.enter_context(each.finished(made))
            yield
