"""TensorBoard event files in the run folder."""

from __future__ import annotations

from typing import Any, ClassVar

from ersparse.runs.loggers.base import LAYER_COLUMNS, RunLogger, layer_rows
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord


class TensorboardLogger(RunLogger):
    """Logs curves, the layers as a text, and the state of run.json as a text, since TensorBoard's runs have none."""

    package: ClassVar[str | None] = "tensorboard"

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        from pytorch_lightning.loggers import TensorBoardLogger

        logger = TensorBoardLogger(plan.folder, name="", version="tensorboard")
        logger.experiment.add_text("state", "running")
        return logger

    def describe_layers(self, logger: Any, record: NetworkRecord) -> None:
        lines = [LAYER_COLUMNS, ["---"] * len(LAYER_COLUMNS), *layer_rows(record)]
        logger.experiment.add_text("layers", "\n".join("|".join(map(str, line)) for line in lines))

    def end(self, logger: Any, state: str) -> None:
        logger.experiment.add_text("state", state)  # opens a further file of events, as Lightning has closed its own
        logger.experiment.close()
