"""Dashboards: TensorBoard and Weights & Biases. They are views: metrics.csv and run.json, which every run writes, hold.

What goes to W&B is chosen here, key by key: never the environment, paths or what a launcher was told.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytorch_lightning as pl

from ersparse.runs.plan import Plan
from ersparse.runs.record import RunRecord
from ersparse.storage.run_folder import RunFolder

SWEEP = "ERSPARSE_SWEEP"  # the name of the sweep that a job belongs to
SHOWN = ("model", "dataset", "sparsity", "method", "optimizer", "seed", "variant", "scale")
PATHS = (("dataset", "root"), ("model", "init_from"), ("sparsity", "file"))
COLUMNS = ("name", "size", "density", "drawn", "nonzero")


def logger_of(plan: Plan, folder: RunFolder, record: RunRecord | None) -> Any:
    """The logger asked for, beside metrics.csv and run.json; False for none, and on all ranks but the first."""
    settings = plan.settings.logger
    if record is None or settings.name == "csv":
        return False
    if settings.name == "tensorboard":
        return pl.loggers.TensorBoardLogger(folder.path, name="", version="tensorboard")
    import wandb  # heavy, and only where it was chosen

    s, known = plan.settings, record.content["wandb_id"]  # a resumed run goes on under its own
    record.save(wandb_id=known or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4))  # W&B's agents give one
    return pl.loggers.WandbLogger(
        name=f"{plan.folder.parent.name}/s{s.seed}",
        save_dir=folder.path,
        id=record.content["wandb_id"],
        resume="allow",
        offline=settings.mode == "offline",
        project=settings.project,
        entity=settings.entity,
        group=s.experiment or os.environ.get(SWEEP),
        job_type=plan.method.name,
        tags=[s.model.name, s.dataset.name, s.sparsity.name, plan.method.name, s.variant, s.scale.name],
        config=_shown(record.content["config"]) | {"hash": plan.hash},
        settings=wandb.Settings(silent=True, x_disable_meta=True, x_disable_machine_info=True),  # paths, arguments
    )


@contextmanager
def finished(logger: Any) -> Iterator[None]:
    """Ends the W&B run with the block, however that ends: or the next run of this process would write into it."""
    try:
        yield
    finally:
        if isinstance(logger, pl.loggers.WandbLogger):
            with suppress(ConnectionError):  # W&B's own process heard the signal as well, and is gone
                logger.experiment.finish()


def describe_layers(logger: Any, record: RunRecord) -> None:
    """The layers as a table: density asked for, weights drawn, weights kept after repair."""
    rows = [[layer[column] for column in COLUMNS] for layer in record.content["layers"]]
    if isinstance(logger, pl.loggers.WandbLogger):
        logger.log_table("layers", columns=list(COLUMNS), data=rows)
    elif isinstance(logger, pl.loggers.TensorBoardLogger):
        lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
        logger.experiment.add_text("layers", "\n".join("|".join(map(str, line)) for line in lines))


def summarise(logger: Any, record: RunRecord) -> None:
    """What the run came to: its metrics, its sparsity, its speed."""
    if isinstance(logger, pl.loggers.WandbLogger):
        content = record.content
        sparsity = {f"sparsity/{key}": value for key, value in content["sparsity"].items()}
        timing = {f"timing/{key}": value for key, value in content["timing"].items()}
        logger.experiment.summary.update({**content["metrics"], **sparsity, **timing, "state": content["state"]})


def _shown(config: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in config.items() if key in SHOWN}
    for group, key in PATHS:
        shown[group] = {name: value for name, value in shown[group].items() if name != key}
    return shown
