"""TensorBoard event files in the run folder."""

from __future__ import annotations

from typing import Any, ClassVar

from ersparse.runs.loggers.base import LAYER_COLUMNS, RunLogger, layer_rows
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord


class TensorboardLogger(RunLogger):
    """Logs curves, and the layers as a text."""

    package: ClassVar[str | None] = "tensorboard"

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(plan.folder, name="", version="tensorboard")

    def describe_layers(self, logger: Any, record: NetworkRecord) -> None:
        lines = [LAYER_COLUMNS, ["---"] * len(LAYER_COLUMNS), *layer_rows(record)]
        logger.experiment.add_text("layers", "\n".join("|".join(map(str, line)) for line in lines))
