"""The callbacks of a training run, in the order in which Lightning calls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytorch_lightning as pl
from rich.console import Console

from ersparse.lightning.callbacks import (
    BestWeights,
    Checkpoints,
    EpochProgressBar,
    EpochSeed,
    EqualAverage,
    ERInit,
    FlowRepair,
    MaskStatistics,
    MetricsHistory,
    ProgressRecorder,
    RankConsistency,
    SparseInit,
    StepTrace,
    WeightAverage,
)
from ersparse.lightning.callbacks.masks import network_of
from ersparse.runs.console import layer_table
from ersparse.runs.loggers.select import logger_of
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord
from ersparse.sparse.mask import masks_of
from ersparse.sparse.source import DenseSource
from ersparse.storage.checkpoints import CheckpointFiles
from ersparse.storage.run_folder import RunFolder


class TrainingCallbacks(NamedTuple):
    """The callbacks of a run, in their order, and those whose results are read afterwards."""

    all: list[pl.Callback]
    repair: FlowRepair
    history: MetricsHistory
    progress: ProgressRecorder
    averages: list[WeightAverage]
    best: BestWeights | None


def make_callbacks(
    plan: Plan,
    checkpoints: CheckpointFiles,
    console: Console,
    record: NetworkRecord | None,
    describe_layers: Callable[[NetworkRecord], None],
    rank: int,
) -> TrainingCallbacks:
    """Return the callbacks: masks first, then the method's, then metrics, and checkpoints last.

    Args:
        plan: the plan of the run.
        checkpoints: the checkpoints of the run.
        console: the console for the layer table and progress.
        record: None on all ranks but rank 0.
        describe_layers: shows the layers in the logger once the masks are known.
        rank: which process this is.
    """
    settings, repair = plan.settings, FlowRepair(plan.source)
    averages = [WeightAverage(settings.trainer.ema)] if settings.trainer.ema else []
    averages += [EqualAverage(settings.trainer.swa)] if settings.trainer.swa is not None else []
    best = _best_weights(plan, record) if settings.trainer.keep_best or settings.trainer.early_stopping else None
    run_logger = logger_of(settings)
    history = MetricsHistory(RunFolder(plan.folder).metrics if record else None)
    progress = ProgressRecorder(
        partial(_record_source, record, repair, console, describe_layers),
        partial(_record_progress, record, plan.epochs),
    )
    return TrainingCallbacks(
        [
            *([] if isinstance(plan.source, DenseSource) else [ERInit(plan.source), repair]),
            *([SparseInit(settings.model.init, settings.seed_of("init"))] if settings.model.init != "default" else []),
            RankConsistency(),
            EpochSeed(settings.seed_of("data"), rank),
            *plan.method.callbacks(plan),
            *averages,
            *([best] if best else []),
            *([StepTrace(plan.folder / "profile")] if settings.trainer.profile else []),
            *([MaskStatistics()] if run_logger.shows_masks else []),
            EpochProgressBar(console),
            history,
            progress,
            Checkpoints(checkpoints, settings.trainer.checkpoint_every),
        ],
        repair,
        history,
        progress,
        averages,
        best,
    )


def _best_weights(plan: Plan, record: NetworkRecord | None) -> BestWeights:
    folder = RunFolder(plan.folder)
    write = partial(folder.write_network, path=folder.best_network) if record else None
    return BestWeights(write, plan.settings.trainer.early_stopping)


def _record_source(
    record: NetworkRecord | None,
    repair: FlowRepair,
    console: Console,
    describe_layers: Callable[[NetworkRecord], None],
    module: pl.LightningModule,
) -> None:
    """Record the source network once it has been drawn and repaired, and show its layers."""
    if record:
        record.describe_source(masks_of(network_of(module)), repair.counts)
        record.save()
        describe_layers(record)
        if console.is_terminal:
            console.print(layer_table(record.content))


def _record_progress(record: NetworkRecord | None, epochs: int, epoch: int) -> None:
    if record:
        record.save(progress={"epoch": epoch, "epochs": epochs})
