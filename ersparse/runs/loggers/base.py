"""The interface of a logger.

A new logger is a subclass of `RunLogger` in a file of its own, with its keys as fields, and one YAML file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from ersparse.config.groups import TargetedSettings
from ersparse.errors import RunFailed
from ersparse.locate import describe_failure
from ersparse.runs.lifecycle import is_expected
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord

SHOWN = ("model", "dataset", "sparsity", "method", "optimizer", "schedule", "loss", "seed", "variant", "scale")
PATHS = (("dataset", "root"), ("model", "init_from"), ("sparsity", "file"))
LAYER_COLUMNS = ("name", "size", "density", "drawn", "nonzero")


class RunLogger(TargetedSettings):
    """The keys of a logger, and what it shows of a run. Only rank 0 logs.

    Attributes:
        package: the Python package that it needs, if any.
        shows_masks: whether curves of mask changes are computed for it.
    """

    package: ClassVar[str | None] = None
    shows_masks: ClassVar[bool] = True

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        """Return a logger for Lightning's Trainer, or False for none."""
        raise NotImplementedError

    def created(self, plan: Plan, record: NetworkRecord) -> Any:
        """Return what `create` returns.

        Raises:
            RunFailed: the logger's package refuses: no server, no API key, an address that it does not understand.
        """
        try:
            return self.create(plan, record)
        except Exception as error:
            if is_expected(error):  # a full disk, which has a line of its own
                raise
            raise RunFailed(f"logger={self.name}: {describe_failure(error)}") from error

    def describe_layers(self, logger: Any, record: NetworkRecord) -> None:
        """Show the layers: densities asked for, weights drawn, weights kept after repair."""

    def summarise(self, logger: Any, record: NetworkRecord) -> None:
        """Show the final metrics, sparsities and timing."""

    def end(self, logger: Any, state: str) -> None:
        """Tell the logger that its run has ended, and in which state of run.json: done, failed or preempted."""

    @contextmanager
    def finished(self, logger: Any) -> Iterator[None]:
        """End the logger's run with the block, however that ends."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
            self.end(logger, "preempted")
            raise
        except BaseException:
            self.end(logger, "failed")
            raise
        self.end(logger, "done")


def layer_rows(record: NetworkRecord) -> list[list[Any]]:
    """Return a row of `LAYER_COLUMNS` for each layer."""
    return [[layer[column] for column in LAYER_COLUMNS] for layer in record.content["layers"]]


def shown_config(record: NetworkRecord) -> dict[str, Any]:
    """Return the groups of the configuration that loggers show, without paths, and the hash of the run."""
    config = record.content["config"]
    shown = {key: value for key, value in config.items() if key in SHOWN}
    for group, key in PATHS:
        shown[group] = {name: value for name, value in shown[group].items() if name != key}
    return shown | {"hash": record.content["hash"]}


def shown_summary(record: NetworkRecord) -> dict[str, Any]:
    """Return the final metrics, sparsities and timing, and the state."""
    content = record.content
    sparsity = {f"sparsity/{key}": value for key, value in content["sparsity"].items()}
    timing = {f"timing/{key}": value for key, value in content["timing"].items()}
    return {**content["metrics"], **sparsity, **timing, "state": content["state"]}
