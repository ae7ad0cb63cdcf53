"""Weights & Biases.

The keys that are sent are chosen here one by one: never the environment, paths or a launcher's settings.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import Any, ClassVar, Literal

from ersparse.runs.loggers.base import LAYER_COLUMNS, RunLogger, layer_rows, shown_config, shown_summary
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord

SWEEP = "ERSPARSE_SWEEP"  # environment variable: the name of the sweep that a job belongs to
EXIT_STATUS = {"done": 0, "failed": 1, "preempted": 130}  # as of `ersparse run`


class WandbLogger(RunLogger):
    """Logs curves, the layers as a table, and a summary; a resumed run continues under its own id."""

    package: ClassVar[str | None] = "wandb"

    project: str | None = None
    entity: str | None = None
    mode: Literal["offline", "online"] = "offline"

    def create(self, plan: Plan, record: NetworkRecord) -> Any:
        import wandb  # slow to import
        from pytorch_lightning import loggers

        s, known = plan.settings, record.content["wandb_id"]
        record.save(wandb_id=known or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))  # W&B's agents set one
        logger = loggers.WandbLogger(
            name=f"{plan.folder.parent.name}/s{s.seed}",
            save_dir=plan.folder,
            id=record.content["wandb_id"],
            resume="allow",
            offline=self.mode == "offline",
            project=self.project,
            entity=self.entity,
            group=s.experiment or os.environ.get(SWEEP),
            job_type=plan.method.name,
            tags=[s.model.name, s.dataset.name, s.sparsity.name, plan.method.name, s.variant, s.scale.name],
            config=shown_config(record),
            settings=wandb.Settings(silent=True, x_disable_meta=True, x_disable_machine_info=True),  # paths, arguments
        )
        _ = logger.experiment  # begins the run, which needs a key and a server
        return logger

    def describe_layers(self, logger: Any, record: NetworkRecord) -> None:
        logger.log_table("layers", columns=list(LAYER_COLUMNS), data=layer_rows(record))

    def summarise(self, logger: Any, record: NetworkRecord) -> None:
        logger.experiment.summary.update(shown_summary(record))

    def end(self, logger: Any, state: str) -> None:
        """End the W&B run with an exit status, by which W&B and the agents of its sweeps know what became of it.

        If it were not ended, the next run of this process would write into it. An interrupted run is marked first, or
        W&B would call it failed instead of preempted.
        """
        with suppress(ConnectionError):  # W&B's own process received the signal as well, and has ended
            if state == "preempted":
                logger.experiment.mark_preempting()
            logger.experiment.finish(exit_code=EXIT_STATUS[state])
