"""One training run: the Trainer, its callbacks, and the network that comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console

from ersparse.config.schema import TrainerSettings
from ersparse.data.arrays import Arrays
from ersparse.data.datamodule import InMemory
from ersparse.distributed.environment import RankEnvironment
from ersparse.distributed.sync_batchnorm import synchronise
from ersparse.lightning.allocator import keep_freed
from ersparse.lightning.callbacks import (
    Checkpoints,
    EpochProgressBar,
    ERInit,
    FlowRepair,
    MaskStatistics,
    MetricsHistory,
    ProgressRecorder,
    RankConsistency,
    SparseInit,
)
from ersparse.runs import loggers
from ersparse.runs.checkpoint_io import VerifiedCheckpointIO
from ersparse.runs.console import layer_table, quiet_lightning
from ersparse.runs.plan import Plan
from ersparse.runs.record import RunRecord
from ersparse.sparse.mask import masks_of
from ersparse.storage.checkpoints import CheckpointFiles
from ersparse.storage.run_folder import RunFolder


def train(
    plan: Plan,
    trainer_settings: TrainerSettings,
    arrays: Arrays,
    files: CheckpointFiles,
    resume: Path | None,
    console: Console,
    record: RunRecord | None,
    ranks: RankEnvironment | None,
) -> None:
    """Trains to the end, from `resume` if it is given.

    Args:
        record: None on all ranks but the first, which alone writes.
        ranks: which rank this is; None where there is one only.
    """
    quiet_lightning()
    plan = replace(plan, settings=plan.settings.model_copy(update={"trainer": trainer_settings}))  # no `auto` in it
    s, folder = plan.settings, RunFolder(plan.folder)
    torch.set_float32_matmul_precision("high")
    data = InMemory(arrays, s.dataset, s.seed_of("data"))
    network, on_cpu = plan.network(), trainer_settings.accelerator == "cpu"
    if on_cpu:
        keep_freed()
    if s.model.sync_batchnorm and on_cpu:
        synchronise(network)
    module = plan.method.module(plan, network, data.eval_names)
    if trainer_settings.execution == "compiled":
        module.compile_steps()
    masking: list[pl.Callback] = []
    repair = FlowRepair(plan.source) if plan.source else None
    if plan.source and repair:
        masking = [ERInit(plan.source), repair]
    if s.model.init != "default":
        masking.append(SparseInit(s.model.init, s.seed_of("init")))

    def started() -> None:
        if record:
            record.describe_source(masks_of(module.network), repair.counts if repair else {})
            record.save()
            loggers.describe_layers(trainer.logger, record)
            if console.is_terminal:
                console.print(layer_table(record.content))

    def update(epoch: int) -> None:
        if record:
            record.save(progress={"epoch": epoch, "epochs": plan.epochs})

    history, recorder = MetricsHistory(folder.metrics if record else None), ProgressRecorder(started, update)
    trainer = pl.Trainer(
        accelerator=trainer_settings.accelerator,
        devices=trainer_settings.devices,
        num_nodes=trainer_settings.num_nodes,
        # masks are large, and the same everywhere: nothing but gradients has to travel
        strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True) if ranks else "auto",
        precision=trainer_settings.precision,  # type: ignore[arg-type]
        sync_batchnorm=s.model.sync_batchnorm and not on_cpu,
        detect_anomaly=trainer_settings.detect_anomaly,
        max_epochs=plan.epochs,
        logger=loggers.logger_of(plan, folder, record),
        callbacks=[
            *masking,
            RankConsistency(),
            *plan.method.callbacks(plan),
            *([MaskStatistics()] if s.logger.name != "csv" else []),
            EpochProgressBar(console),
            history,
            recorder,
            Checkpoints(files.intended),
        ],
        plugins=[VerifiedCheckpointIO(files), *([ranks] if ranks else [])],
        benchmark=True,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
    )
    with loggers.finished(trainer.logger):
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        if record:
            record.describe_masks(module.masks())
            record.content["network_sha256"] = folder.write_network(module.product())
            timing = {"fit_s": recorder.fit_s, "epochs": len(history.rows), "images_per_s": recorder.images_per_s()}
            record.save(state="done", metrics=history.summary(), timing=timing)
            loggers.summarise(trainer.logger, record)
            files.keep(1)
