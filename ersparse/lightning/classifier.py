"""The LightningModule of image classification."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ersparse.config.optimizer_settings import HamSettings, OptimizerSettings
from ersparse.config.schedule_settings import MULTISTEP, ScheduleSettings
from ersparse.distributed.collectives import mean_over_ranks, world_size
from ersparse.lightning.auto_settings import memory_format
from ersparse.lightning.classification_metrics import ClassificationMetrics
from ersparse.lightning.extra_metrics import per_class_accuracy
from ersparse.lightning.older_checkpoints import rename_callbacks
from ersparse.lightning.optimizers import add_hyperbolic_steps, make_optimizer
from ersparse.lightning.parameter_groups import ParameterGroup, norm_parameters, parameter_groups
from ersparse.lightning.reparametrization import Reparametrization
from ersparse.lightning.schedules import make_schedule, milestone_epochs
from ersparse.lightning.step_graphs import StepGraphs
from ersparse.lightning.timeline import Timeline
from ersparse.sparse.mask import Masks, masks_of


class Classifier(pl.LightningModule):
    """Trains `network` by cross-entropy, and logs accuracy and loss on training, test and validation images.

    Args:
        network: the network, [B, C, side, side] -> logits [B, num_classes].
        num_classes: number of classes of the data set.
        optimizer: settings of the optimizer; milestones are fractions of `epochs`.
        epochs: number of epochs of the run.
        eval_names: names of the dataloaders of the validation loop, in their order: "test", "val".
        schedule: learning-rate schedule of the run; None is the multi-step schedule of `optimizer.milestones`.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerSettings,
        epochs: int,
        eval_names: list[str],
        schedule: ScheduleSettings | None = None,
    ) -> None:
        super().__init__()
        self.memory_format = memory_format(network)
        self.network = network.to(memory_format=self.memory_format)
        self.compiled: Callable[..., Tensor] | None = None
        self.graphs: StepGraphs | None = None
        self.optimizer_settings = optimizer
        self.schedule_settings = schedule or ScheduleSettings.model_validate(MULTISTEP)
        self.epochs, self.eval_names = epochs, eval_names
        self.label_smoothing = 0.0
        self.per_class: dict[str, list[float | None]] = {}
        self.beside: dict[str, Callable[[Tensor], Tensor]] = {}
        self.reparametrization: Reparametrization | None = None
        self.stored_parts: dict[str, list[Tensor]] = {}  # of its weights, from a checkpoint
        self.metrics = ClassificationMetrics(num_classes, ["train", *eval_names])

    def add_metrics(self, names: Iterable[str]) -> None:
        """Add the metrics `names` of `ersparse.lightning.extra_metrics` to every evaluation."""
        for part in self.eval_names:
            self.metrics.add_further(part, names)

    def evaluate_beside(self, name: str, logits: Callable[[Tensor], Tensor]) -> None:
        """Evaluate other weights as well, as metrics `test/acc_name` and `test/loss_name`.

        Args:
            name: what they are called.
            logits: function from images to their logits.
        """
        self.beside[name] = logits
        for part in self.eval_names:
            self.metrics.add_accuracy_and_loss(part, f"_{name}")

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.to_memory_format(x))

    def to_memory_format(self, x: Tensor) -> Tensor:
        """Return images in the memory format of the network's weights."""
        if self.memory_format == torch.channels_last:
            return x.contiguous(memory_format=torch.channels_last)
        # clone copies: for one channel, `contiguous` keeps strides that convolutions take for channels-last
        return x.clone(memory_format=torch.contiguous_format)

    def use_channels_last(self) -> None:
        """Train in channels-last format, also networks for which it is not safe on CPUs."""
        self.memory_format = torch.channels_last
        self.to(memory_format=torch.channels_last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the parts of reparametrised weights."""
        if self.reparametrization:
            parts = self.reparametrization.parts
            checkpoint["parts"] = {name: [part.detach() for part in pair] for name, pair in parts.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give optimizer state the memory format of the weights, which on another device may be another.

        Fused optimizers read both in the order of memory, and would combine a weight with the momentum of another.
        """
        rename_callbacks(checkpoint)
        self.stored_parts = checkpoint.get("parts", {})
        for optimizer in checkpoint.get("optimizer_states", []):
            for state in optimizer["state"].values():
                for key, value in state.items():
                    if isinstance(value, Tensor) and value.dim() == 4:
                        state[key] = value.contiguous(memory_format=self.memory_format)

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits [B, num_classes] of images that have the network's memory format."""
        return self.apply_network(x)

    def apply_network(self, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """Return the network's output, compiled if `compile_steps` was called and the module is in training mode.

        Args:
            x: images in the network's memory format.
            weights: parameters by name that replace those of the network; None uses the network's own.
        """
        call = self.compiled if self.compiled and self.training else _call_network
        logits: Tensor = call(self.network, x, weights)
        return logits

    def compile_steps(self) -> None:
        """Compile the forward pass of training steps with `torch.compile`, at the first step.

        Evaluation is not compiled, because callbacks register forward hooks there. Masks are not part of the compiled
        graph, so they may change without recompilation. Each batch size has a graph of its own. Otherwise the smaller
        last batch would make PyTorch compile one for all sizes, which is slower, and use it from then on.
        """
        self.compiled = torch.compile(_call_network, dynamic=False)

    def record_steps(self) -> None:
        """Record training steps as CUDA graphs, and replay them (`ersparse.lightning.step_graphs`)."""
        self.graphs = StepGraphs(self, self._logits_and_loss)

    def on_train_epoch_start(self) -> None:
        """Record steps anew if weights or masks have been replaced since the last epoch."""
        if self.graphs:
            self.graphs.check()

    def masks(self) -> Masks:
        """Return the current masks by layer name; empty for a dense network."""
        return masks_of(self.network)

    def final_state(self) -> dict[str, Tensor]:
        """Return the tensors of network.safetensors: weights, buffers, and masks if the network is sparse."""
        return dict(self.network.state_dict())

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters passed to the optimizer."""
        return self.network.parameters()

    def trainable_names(self) -> list[str]:
        """Return the names of `trainable_parameters`: those of the network."""
        return [name for name, _ in self.network.named_parameters()]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss, scaled so that DDP averages over the images of all ranks."""
        x, y = batch
        logits, loss = self.graphs.forward(x, y) if self.graphs else self._logits_and_loss(x, y)
        self.metrics.update_accuracy_and_loss("train", logits, loss, y)
        return self.mean_over_ranks(loss, len(y), batch_index)

    def _logits_and_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the training loss of a batch."""
        logits = self(x)
        return logits, self.loss(logits, y)

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """Compute the gradients, unless the training step has done so already."""
        if self.graphs:
            self.graphs.backward(loss)
        else:
            super().backward(loss, *arguments, **options)

    def mean_over_ranks(self, loss: Tensor, count: int, batch_index: int) -> Tensor:
        """Scale the mean loss of this rank's `count` images by their share of the global batch."""
        if world_size() == 1:
            return loss
        loader: Any = self.trainer.train_dataloader
        return mean_over_ranks(loss, count, loader.plan.batch_sizes[batch_index])

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the training loss of a batch."""
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int, dataloader_idx: int = 0) -> None:
        """Update the metrics of one evaluation dataloader."""
        part, (x, y) = self.eval_names[dataloader_idx], batch
        logits = self(x)
        self._update_evaluation(part, logits, y)
        self.metrics.update_further(part, logits, y)
        for name, logits_of in self.beside.items():
            self._update_evaluation(part, logits_of(self.to_memory_format(x)), y, f"_{name}")

    def _update_evaluation(self, part: str, logits: Tensor, y: Tensor, suffix: str = "") -> None:
        """Update accuracy and loss by the cross-entropy of a batch, without label smoothing."""
        self.metrics.update_accuracy_and_loss(part, logits, F.cross_entropy(logits, y), y, suffix)

    def on_validation_epoch_end(self) -> None:
        """Log and reset all metrics of the epoch; Lightning evaluates at the end of each training epoch."""
        for name, value in self.metrics.take():
            if value.dim():
                self.per_class[name.partition("/")[0]] = per_class_accuracy(value)
            else:
                self.log(name, value)

    def configure_optimizers(self) -> Any:
        parameters = dict(zip(self.trainable_names(), self.trainable_parameters(), strict=True))
        if self.reparametrization:
            self.reparametrization.start(parameters, self.stored_parts)
        parts = self.reparametrization.parts if self.reparametrization else {}
        groups = [
            {"params": [p for name in group.names for p in parts.get(name, [parameters[name]])], **group.keys}
            for group in self.parameter_groups()
        ]
        single = len(groups) == 1 and len(groups[0]) == 1
        optimizer = make_optimizer(groups[0]["params"] if single else groups, self.optimizer_settings)
        if self.reparametrization:
            optimizer.register_step_post_hook(self._merge_parts)
        if self.optimizer_settings.ham != HamSettings():
            matrices = [name for name, p in self.network.named_parameters() if p.dim() > 1]  # in sparse execution, too
            add_hyperbolic_steps(optimizer, [parameters[n] for n in matrices], self.optimizer_settings.ham)
        scheduler = {"scheduler": self.schedule(optimizer), "interval": self.schedule_settings.interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _merge_parts(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        assert self.reparametrization
        self.reparametrization.merge()

    def on_after_backward(self) -> None:
        """Give the parts of reparametrised weights their gradients."""
        if self.reparametrization:
            scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
            self.reparametrization.set_gradients(scaler.get_scale() if scaler else 1.0)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Drop all gradients, also those of weights that are computed from parts."""
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)
        if self.reparametrization:
            self.reparametrization.drop_gradients()

    def optimized_names(self) -> list[str]:
        """Return the names of the optimizer's parameters in its order; those of the parts of a weight are the same."""
        names = [name for group in self.parameter_groups() for name in group.names]
        rules = self.reparametrization.rules if self.reparametrization else {}
        return [name for name in names for _ in range(rules[name].parts if name in rules else 1)]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients together; those of removed weights are zero by then.

        Fused optimizers divide by the loss scale of 16-mixed themselves, after clipping, so the limit is scaled.
        """
        if gradient_clip_val:
            scaler: Any = getattr(self.trainer.precision_plugin, "scaler", None)
            is_scaled = scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
            limit = gradient_clip_val * (scaler.get_scale() if is_scaled else 1.0)
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], limit)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the names of the parameters of each of the optimizer's groups, and the keys of the group."""
        return parameter_groups(self.trainable_names(), norm_parameters(self.network), self.optimizer_settings)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the scheduler of the learning rate over the whole run."""
        return self.schedule_over(optimizer, self.epochs)

    def schedule_over(self, optimizer: Optimizer, epochs: int) -> LRScheduler:
        """Return the scheduler of a training, or of a level, of `epochs` epochs."""
        timeline = Timeline(epochs, self.steps_per_epoch(), self.schedule_settings)
        return make_schedule(optimizer, self.optimizer_settings, self.schedule_settings, timeline)

    def steps_per_epoch(self) -> int:
        """Return the optimizer steps in an epoch; 1 if the schedule does not depend on their number."""
        if not self.schedule_settings.counts_steps():
            return 1
        epochs = self.trainer.max_epochs
        assert epochs
        return int(self.trainer.estimated_stepping_batches) // epochs

    def milestones(self, epochs: int) -> list[int]:
        """Return the milestones, in epochs, of a training of `epochs` epochs."""
        return milestone_epochs(self.optimizer_settings, epochs)


def _call_network(network: nn.Module, x: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
    logits: Tensor = network(x) if weights is None else functional_call(network, weights, (x,))
    return logits
