"""One training run: the LightningModule, the callbacks, the Trainer, and the network that comes out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console

from ersparse.config.trainer_settings import TrainerSettings
from ersparse.data.datamodule import ImageDataModule
from ersparse.data.streamed import ImageData
from ersparse.distributed.environment import RankEnvironment
from ersparse.distributed.sync_batchnorm import synchronise
from ersparse.lightning.allocator import keep_freed
from ersparse.lightning.auto_settings import sees_own_gpu_only
from ersparse.lightning.callbacks import EqualAverage
from ersparse.lightning.callbacks.checkpoints import VerifiedCheckpointIO
from ersparse.lightning.callbacks.epoch_seed import random_state_kept
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.classifier import Classifier
from ersparse.runs.console import quiet_lightning
from ersparse.runs.loggers.select import logger_of
from ersparse.runs.network import build_network
from ersparse.runs.plan import Plan
from ersparse.runs.record import NetworkRecord
from ersparse.runs.training_callbacks import TrainingCallbacks, make_callbacks
from ersparse.storage.checkpoints import CheckpointFiles

BENCHMARKED_FROM = 2_000  # optimizer steps of a run from which cuDNN times its algorithms, for every batch size
COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # after which ranks give up a collective operation; Lightning's is 30


def train(
    plan: Plan,
    arrays: ImageData,
    checkpoints: CheckpointFiles,
    resume: Path | None,
    console: Console,
    record: NetworkRecord | None,
    ranks: RankEnvironment,
) -> None:
    """Train to the end, from the checkpoint `resume` if it is given.

    Args:
        plan: the plan of the run, with its trainer settings resolved.
        arrays: the data set, in memory or streamed.
        checkpoints: the checkpoints of the run.
        resume: a checkpoint of the run.
        console: the console for progress.
        record: None on all ranks but rank 0, which alone writes.
        ranks: which rank this is, and of how many.
    """
    quiet_lightning()
    rank_zero_only.rank = ranks.rank  # type: ignore[attr-defined] # Lightning has read SLURM_PROCID, RANK and so on
    allow_tf32(plan.settings.trainer.tf32)
    data = ImageDataModule(arrays, plan.settings.dataset, plan.settings.seed_of("data"))
    module = make_module(plan, data.eval_names)
    run_logger = logger_of(plan.settings)
    logger = run_logger.created(plan, record) if record else False
    describe_layers = partial(run_logger.describe_layers, logger)
    with deterministic_only_here(), random_state_kept(), run_logger.finished(logger) if logger else nullcontext():
        callbacks = make_callbacks(plan, checkpoints, console, record, describe_layers, ranks.rank)
        benchmark = plan.epochs * len(arrays.y_train) >= BENCHMARKED_FROM * plan.settings.dataset.batch_size
        trainer = make_trainer(plan, callbacks.all, checkpoints, logger, ranks, benchmark)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        if record:
            finish(record, module, callbacks, checkpoints)
            run_logger.summarise(logger, record)


def allow_tf32(allowed: bool) -> None:
    """Let GPUs compute products and convolutions of float32 numbers in TF32, with 10 bits of mantissa, or forbid it."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def deterministic_only_here() -> Iterator[None]:
    """Restore PyTorch's setting of deterministic algorithms, which Lightning's Trainer changes, after the block."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def make_module(plan: Plan, eval_names: list[str]) -> Classifier:
    """Return the LightningModule of the run's method, with the network in it."""
    settings, on_cpu = plan.settings, plan.settings.trainer.accelerator == "cpu"
    network = build_network(settings, plan.init_from)
    if on_cpu:
        keep_freed()
        if settings.model.sync_batchnorm:
            synchronise(network)
    module = plan.method.module(plan, network, eval_names)
    if settings.trainer.accelerator == "gpu":
        module.use_channels_last()
    module.label_smoothing = settings.loss.label_smoothing
    module.add_metrics(settings.trainer.metrics)
    if settings.trainer.execution == "compiled":
        module.compile_steps()
    elif settings.trainer.execution == "graphed":
        module.record_steps()
    return module


def make_trainer(
    plan: Plan,
    callbacks: list[pl.Callback],
    checkpoints: CheckpointFiles,
    logger: Any,
    ranks: RankEnvironment,
    benchmark: bool = False,
) -> pl.Trainer:
    """Return Lightning's Trainer, whose only output is what our callbacks, loggers and checkpoints write.

    Args:
        plan: the plan of the run.
        callbacks: its callbacks, in their order.
        checkpoints: the checkpoints of the run.
        logger: the logger of Lightning, or False.
        ranks: which rank this is, and of how many.
        benchmark: let cuDNN choose its algorithms by timing them.
    """
    settings = plan.settings.trainer
    # masks are large, and the same on all ranks: nothing but gradients has to be communicated
    ddp = DDPStrategy(
        parallel_devices=_devices_of_ranks(settings),
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        timeout=COLLECTIVE_TIMEOUT,
    )
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=ddp if ranks.size > 1 else "auto",
        precision=settings.precision,  # type: ignore[arg-type]
        sync_batchnorm=plan.settings.model.sync_batchnorm and settings.accelerator != "cpu",
        detect_anomaly=settings.detect_anomaly,
        gradient_clip_val=settings.clip_norm,
        accumulate_grad_batches=settings.accumulate,
        deterministic=settings.deterministic,
        max_epochs=plan.epochs,
        logger=logger,
        callbacks=callbacks,
        plugins=[VerifiedCheckpointIO(checkpoints), ranks],
        benchmark=benchmark and not settings.deterministic,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=plan.folder,
    )


def _devices_of_ranks(settings: TrainerSettings) -> list[torch.device] | None:
    """Return the device of each rank of this node if every rank sees one GPU only, as some clusters bind them."""
    if settings.accelerator == "gpu" and sees_own_gpu_only(settings):
        return [torch.device("cuda", 0)] * settings.devices
    return None


def finish(
    record: NetworkRecord,
    module: Classifier,
    callbacks: TrainingCallbacks,
    checkpoints: CheckpointFiles,
) -> None:
    """Write the network, record metrics and timing with state "done", and remove all but the last checkpoint."""
    record.describe_masks(module.masks())
    record.content["network_sha256"] = record.folder.write_network(module.final_state())
    for average in callbacks.averages:
        averaged = module.final_state() | average.dense()
        record.folder.write_network(averaged, record.folder.averaged_network(average.name))
        if isinstance(average, EqualAverage):
            record.content["swa"] = {"epochs": average.count}
    if best := callbacks.best:
        record.content["best_validation"] = {"epoch": best.epoch, "val/acc": best.best, "stopped_after": best.stopped}
    epochs, progress = len(callbacks.history.rows), callbacks.progress
    timing = {"fit_s": progress.fit_s, "epochs": epochs, "images_per_s": progress.images_per_s()}
    if module.graphs:
        record.content["graphed"] = module.graphs.describe()
    if left_out := [step for callback in callbacks.all if isinstance(callback, Rewiring) for step in callback.left_out]:
        record.content["updates_left_out"] = left_out
    if module.per_class:
        record.content["per_class"] = module.per_class
    record.save(state="done", metrics=callbacks.history.summary(), timing=timing)
    checkpoints.keep(1)
