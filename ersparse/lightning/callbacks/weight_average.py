"""An exponential moving average of the weights (EMA), as sparse as the network that it averages."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ersparse.kernels.network import to_dense, to_kept
from ersparse.lightning.callbacks.masks import network_of
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.sparse_classifier import SparseClassifier
from ersparse.sparse.mask import masks_of


class WeightAverage(pl.Callback):
    """Averages parameters and floating-point buffers after every optimizer step: `a ← d a + (1 − d) w`.

    The first step sets a = w. A weight that rewiring removes is zero in the average as well, and a weight that it grows
    starts from zero there. With sparse execution only kept weights are stored.

    The average is evaluated beside the network's own weights, and is part of the checkpoint.

    Args:
        decay: d, in (0, 1).

    Attributes:
        name: what its metrics and file are called.
    """

    name = "ema"

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}  # dense between `load_state_dict` and `on_fit_start`
        self.step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have the module evaluate the average, in a copy of the network without weights or hooks."""
        assert isinstance(pl_module, Classifier)
        stand_in, network = self.make_stand_in(pl_module.network), pl_module.network
        self.stand_in = stand_in

        def evaluate(x: Tensor) -> Tensor:
            logits: Tensor = functional_call(stand_in, dict(network.named_buffers()) | self.dense(), (x,))
            return logits

        pl_module.evaluate_beside(self.name, evaluate)

    def make_stand_in(self, network: nn.Module) -> nn.Module:
        """Return a copy of the network without weights or hooks, in evaluation mode."""
        return copy.deepcopy(network).to("meta").eval()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.network = network_of(pl_module)
        self.current = _averaged(self.network)
        self.masks: dict[str, Tensor] = {}
        if isinstance(pl_module, SparseClassifier):
            self.current |= dict(zip(pl_module.sparse.layers, pl_module.sparse.values, strict=True))
            self._use_masks(pl_module.sparse.masks())
            for name, mask in self.masks.items() if self.average else ():
                self.average[name] = to_kept(self.average[name], mask)
        self.average = {name: value.to(self.current[name].device) for name, value in self.average.items()}
        self.step = trainer.global_step
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Rewiring):
                callback.listeners.append(self._rewired)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Average the present weights in."""
        if not self.average:
            self.average = {name: value.detach().clone() for name, value in self.current.items()}
            return
        current = [self.current[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - self.decay)

    def dense(self) -> dict[str, Tensor]:
        """Return the average in the shapes of the network; the network's own weights before the first step."""
        found = self.average or {name: value.detach() for name, value in self.current.items()}
        return found | {name: to_dense(found[name], mask) for name, mask in self.masks.items()}

    def _rewired(self, step: int, network: nn.Module, changes: Mapping[str, Any]) -> None:
        """Remove from the average what an update of the masks has removed, and keep what it has not."""
        masks = masks_of(network)
        if not self.average:
            if self.masks:
                self._use_masks(masks)
            return
        if not self.masks:
            for name, mask in masks.items():
                self.average[name].masked_fill_(~mask, 0.0)
            return
        dense = {name: to_dense(self.average[name], mask) for name, mask in self.masks.items()}
        self._use_masks(masks)
        for name, mask in self.masks.items():
            self.average[name] = to_kept(dense[name], mask)

    def _use_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Keep a copy of the masks by which kept weights are stored; those of the network change in place."""
        self.masks = {name: mask.clone().contiguous() for name, mask in masks.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"average": {name: value.cpu() for name, value in self.dense().items()} if self.average else {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = {name: value.clone() for name, value in state_dict["average"].items()}


def _averaged(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and floating-point buffers of a network."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor for name, tensor in tensors if tensor.is_floating_point()}
