"""A trace of some training steps by PyTorch's profiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile

SKIPPED = 3  # batches before the trace, in which memory is allocated and kernels are chosen
TRACED = 10  # batches, or fewer at the end of an epoch


class StepTrace(pl.Callback):
    """Profiles training batches of this process, and writes `trace.json.gz` and `operations.txt` on rank 0.

    The trace opens in https://ui.perfetto.dev and chrome://tracing. The table lists operations by their own time.

    Args:
        folder: folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profiler: profile | None = None
        self.seen, self.done = 0, False

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.seen >= SKIPPED and not self.profiler and not self.done and trainer.is_global_zero:
            self.device = "cuda" if pl_module.device.type == "cuda" else "cpu"
            activities = {"cpu": [ProfilerActivity.CPU], "cuda": [ProfilerActivity.CPU, ProfilerActivity.CUDA]}
            self.profiler = profile(activities=activities[self.device])
            self.profiler.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += 1
        if self.profiler and (self.seen >= SKIPPED + TRACED or batch_idx + 1 == trainer.num_training_batches):
            self._write()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self.profiler:
            self.profiler.stop()
            self.profiler = None

    def _write(self) -> None:
        assert self.profiler
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.profiler.stop()
        self.folder.mkdir(exist_ok=True)
        self.profiler.export_chrome_trace(str(self.folder / "trace.json.gz"))
        table = self.profiler.key_averages().table(sort_by=f"self_{self.device}_time_total", row_limit=40)
        (self.folder / "operations.txt").write_text(table + "\n", "utf-8")
        self.profiler, self.done = None, True
