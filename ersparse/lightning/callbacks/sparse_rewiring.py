"""Rewiring with sparse execution, where removed weights have neither gradients nor an optimizer's memory."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import nn

from ersparse.distributed.collectives import average
from ersparse.kernels.network import to_dense, to_kept
from ersparse.lightning.callbacks.rewiring import Rewiring, States
from ersparse.lightning.sparse_classifier import SparseClassifier, changed


class SparseRewiring(Rewiring):
    """An update sees what it would with masks: dense weights, gradients and memory, there for as long as it takes.

    Gradients of removed weights are computed in the steps that grow by them, and in no others. Grown weights start
    without a memory, since nothing is remembered of removed ones.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SparseClassifier)
        self.sparse = pl_module.sparse
        super().on_fit_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, SparseClassifier)
        pl_module.grows = self.rules.grow == "gradient" and self.rewires(trainer.global_step + 1)

    def _update(self, step: int, network: nn.Module, states: States) -> None:
        sparse = self.sparse
        weights = {name: module.weight for name, module in sparse.layers.items()}
        values = dict(zip(weights, sparse.values, strict=True))
        masks = sparse.masks()
        remembered = {
            weights[name]: changed(states[values[name]], partial(to_dense, mask=masks[name]))
            for name in weights
            if values[name] in states
        }
        sparse.scatter()
        average(weight.grad for weight in weights.values() if weight.grad is not None)
        super()._update(step, network, remembered)
        sparse.gather()
        masks = sparse.masks()
        for name, weight in weights.items():
            weight.grad = None
            if weight in remembered:
                states[values[name]] = changed(remembered[weight], partial(to_kept, mask=masks[name]))
