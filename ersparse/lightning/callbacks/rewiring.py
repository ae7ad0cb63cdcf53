"""Rewiring during training: an update of the masks every `delta_t` optimizer steps."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from ersparse.config.rewiring_rules import RewiringRules
from ersparse.lightning.callbacks.masks import network_of
from ersparse.lightning.loss_scaling import overflowed_before_step, overflowed_in_step
from ersparse.loops.mask_updates import MaskUpdates, States
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import attach, density_of, masks_of
from ersparse.sparse.patterns import Pattern

__all__ = ["Rewiring", "States"]

log = logging.getLogger(__name__)


class Rewiring(MaskUpdates, pl.Callback):
    """Updates the masks after every `delta_t`-th optimizer step, or in place of it (`skip_step`).

    A resumed run continues exactly. With precision 16-mixed, an update whose gradients have overflowed is left out,
    like the optimizer step. A warning says so, and `left_out` has its step.

    Attributes:
        left_out: steps, counted from 1, whose updates were left out.
    """

    def __init__(self, rules: RewiringRules, layers: list[Layer], seed: int, pattern: Pattern | None = None) -> None:
        super().__init__(rules, layers, seed, pattern)
        self.left_out: list[int] = []
        self.updated, self.checked = 0, 0  # the last step with an update, and the last one that was checked for it

    def network_in(self, module: pl.LightningModule) -> nn.Module:
        """Return the network that is rewired."""
        return network_of(module)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach full masks to a dense network, which then becomes sparse by pruning."""
        network = self.network_in(pl_module)
        if not masks_of(network):
            attach(network, {name: torch.ones(layer.shape, dtype=torch.bool) for name, layer in self.layers.items()})

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the steps of updates, and register the hook that follows each optimizer step."""
        network = self.network_in(pl_module)
        if self.start_density is None:
            self.start_density = density_of(masks_of(network))
        unused = self.plan(int(trainer.estimated_stepping_batches))
        if unused and trainer.is_global_zero:
            log.warning("method.delta_t: %s", unused)
        self.hook = None
        if not self.rules.skip_step:

            def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
                step = trainer.global_step + 1
                if self.is_due(step) and not overflowed_in_step(optimizer):
                    self.update_and_report(step, network, optimizer.state)
                    self.updated = step

            self.hook = trainer.optimizers[0].register_step_post_hook(after_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record dense gradients from the first batch on of a step that grows by them."""
        if not self.recording:
            self.record_if_due(trainer.global_step + 1, self.network_in(pl_module))

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Start the record anew together with the gradients, or drop that of a step that did not take place."""
        if self.recording:
            self.drop_record(self.network_in(pl_module))
            self.record_if_due(trainer.global_step + 1, self.network_in(pl_module))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Update in place of the optimizer's step, if `skip_step` is set: without gradients, the step does nothing."""
        step = trainer.global_step + 1
        if self.rules.skip_step and self.is_due(step) and not overflowed_before_step(trainer, optimizer):
            self.update_and_report(step, self.network_in(pl_module), optimizer.state)
            self.updated = step
            for parameter in pl_module.parameters():
                parameter.grad = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.checked = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record and report an update that an overflow has left out; only a gradient scaler skips steps."""
        step = trainer.global_step
        scales = getattr(trainer.precision_plugin, "scaler", None) and pl_module.automatic_optimization
        if step == self.checked or not scales:
            return
        self.checked = step
        if self.is_due(step) and self.updated != step:
            self.left_out.append(step)
            if trainer.is_global_zero:
                log.warning(self._left_out_line(step, self.network_in(pl_module)))

    def _left_out_line(self, step: int, network: nn.Module) -> str:
        """Return the warning about an update that was left out, and what follows if it is the last that prunes."""
        line = (
            f"step {step}: the update of the masks is left out, because gradients overflow (trainer.precision=16-mixed)"
        )
        if self.prunes(step) and step == self.last_pruning_step:
            sparsity = 1 - density_of(masks_of(network))
            line += f"; sparsity ends at {sparsity:.6g}, not at method.final_sparsity={self.rules.final_sparsity}"
        return line

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.hook:
            self.hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"start_density": self.start_density} | ({"left_out": self.left_out} if self.left_out else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start_density = state_dict["start_density"]
        self.left_out = list(state_dict.get("left_out", []))
