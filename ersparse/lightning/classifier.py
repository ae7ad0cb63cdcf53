"""The LightningModule: a network that classifies images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from ersparse.config import schema
from ersparse.distributed.collectives import mean_over_ranks
from ersparse.lightning.auto_settings import memory_format
from ersparse.lightning.schedules import milestone_epochs, multistep
from ersparse.sparse.mask import Masks, masks_of


class Classifier(pl.LightningModule):
    """Cross-entropy training of `network`, with accuracy and loss on training, test and validation images.

    Args:
        network: [B, C, side, side] -> logits [B, num_classes].
        num_classes: of the data.
        optimizer: its settings; milestones are fractions of `epochs`.
        epochs: of the whole run.
        eval_names: of the validation loop's dataloaders, in their order.
        schedule: of the learning rate; None is the multi-step schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: schema.OptimizerSettings,
        epochs: int,
        eval_names: list[str],
        schedule: schema.ScheduleSettings | None = None,
    ) -> None:
        super().__init__()
        self.memory_format = memory_format(network)
        self.network = network.to(memory_format=self.memory_format)
        self.compiled: Callable[..., Tensor] | None = None
        self.optimizer_settings, self.schedule_settings = optimizer, schedule
        self.epochs, self.eval_names = epochs, eval_names
        self.metrics = nn.ModuleDict()
        for name in ["train", *eval_names]:
            # without checks of every batch, for which a GPU would have to wait; MeanMetric then has no weights either
            self.metrics[f"{name}/acc"] = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
            self.metrics[f"{name}/loss"] = MeanMetric(nan_strategy="disable")

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.laid_out(x))

    def laid_out(self, x: Tensor) -> Tensor:
        """As the network's weights are."""
        if self.memory_format == torch.channels_last:
            return x.contiguous(memory_format=torch.channels_last)
        # a copy: with one channel `contiguous` leaves strides that convolutions take for channels-last
        return x.clone(memory_format=torch.contiguous_format)

    def logits(self, x: Tensor) -> Tensor:
        return self.through(x)

    def through(self, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """`x` through the network, or through the network with other `weights`; compiled where that was asked for."""
        through = self.compiled if self.compiled and self.training else _through
        logits: Tensor = through(self.network, x, weights)
        return logits

    def compile_steps(self) -> None:
        """From now on training steps are compiled, at the first. Evaluation is not, since callbacks watch layers in it.

        Masks are no part of what is compiled: they may change without another compilation.
        """
        self.compiled = torch.compile(_through)

    def masks(self) -> Masks:
        """The masks of what is being trained, as they are now."""
        return masks_of(self.network)

    def product(self) -> dict[str, Tensor]:
        """What the run leaves: weights, and masks where there are some."""
        return dict(self.network.state_dict())

    def trained(self) -> Iterable[nn.Parameter]:
        """What the optimizer gets."""
        return self.network.parameters()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        return mean_over_ranks(self._step("train", batch), len(batch[1]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int, dataloader_idx: int = 0) -> None:
        self._step(self.eval_names[dataloader_idx], batch)

    def _step(self, name: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self._metric(f"{name}/loss").update(loss.detach().expand(len(y)))
        self._metric(f"{name}/acc").update(logits.detach(), y)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Logs everything that this epoch measured: Lightning evaluates at the end of each training epoch."""
        for name in self.metrics:
            metric = self._metric(name)
            self.log(name, metric.compute())
            metric.reset()

    def _metric(self, name: str) -> Metric:
        metric = self.metrics[name]
        assert isinstance(metric, Metric)
        return metric

    def configure_optimizers(self) -> Any:
        settings = self.optimizer_settings
        optimizer = settings.resolve()(self.trained(), settings, **settings.own_keys())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "epoch"}}

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the scheduler of the learning rate over the whole run."""
        schedule = self.schedule_settings
        if schedule is None:
            return multistep(optimizer, self.optimizer_settings, self.epochs)
        scheduler: LRScheduler = schedule.resolve()(
            optimizer, self.optimizer_settings, self.epochs, **schedule.own_keys()
        )
        return scheduler

    def milestones(self, epochs: int) -> list[int]:
        """Return the milestones of a training of so many epochs."""
        return milestone_epochs(self.optimizer_settings, epochs)


def _through(network: nn.Module, x: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
    logits: Tensor = network(x) if weights is None else functional_call(network, weights, (x,))
    return logits


class Untrained(Classifier):
    """Passes over the images once without learning; with `recalibrate` BatchNorm gathers its statistics on the way.

    The statistics are plain means over all batches, whatever they were before.
    """

    def __init__(self, *arguments: Any, recalibrate: bool) -> None:
        super().__init__(*arguments)
        self.recalibrate = recalibrate
        for module in self.network.modules():
            if isinstance(module, _BatchNorm) and recalibrate:
                module.reset_running_stats()
                module.momentum = None  # which makes them means

    def on_train_epoch_start(self) -> None:
        self.network.train(self.recalibrate)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:  # type: ignore[override]
        with torch.no_grad():
            self._step("train", batch)
