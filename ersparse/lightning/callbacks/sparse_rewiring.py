"""Rewiring with sparse execution, which stores neither gradients nor optimizer state of removed weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import nn

from ersparse.distributed.collectives import average
from ersparse.kernels.network import to_dense, to_kept
from ersparse.lightning.callbacks.rewiring import Rewiring, States
from ersparse.lightning.sparse_classifier import SparseClassifier, map_state


class SparseRewiring(Rewiring):
    """Rewires like `Rewiring`, at the same steps, on dense weights, gradients and optimizer state.

    These exist only during an update. Gradients of removed weights are computed only in the steps that rewire by them;
    `on_train_batch_start` requests them. Grown weights start without optimizer state, because none is stored for
    removed weights.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SparseClassifier)
        self.sparse = pl_module.sparse
        super().on_fit_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SparseClassifier)
        pl_module.needs_dense_gradients = self.needs_gradient and self.rewires(trainer.global_step + 1)

    def _update(self, step: int, network: nn.Module, states: States) -> None:
        sparse = self.sparse
        weights = {name: held.weight for name, held in sparse.layers.items()}
        values = dict(zip(weights, sparse.values, strict=True))
        masks = sparse.masks()
        dense_states = {
            weights[name]: map_state(states[values[name]], partial(to_dense, mask=masks[name]))
            for name in weights
            if values[name] in states
        }
        sparse.scatter()
        average(weight.grad for weight in weights.values() if weight.grad is not None)
        super()._update(step, network, dense_states)
        sparse.gather()
        masks = sparse.masks()
        for name, weight in weights.items():
            weight.grad = None
            if weight in dense_states:
                states[values[name]] = map_state(dense_states[weight], partial(to_kept, mask=masks[name]))
