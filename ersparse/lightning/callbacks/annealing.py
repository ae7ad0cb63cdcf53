"""From the density of the source network to the final one, level by level."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as pl
import torch

from ersparse.lightning.edge_popup import EdgePopupClassifier
from ersparse.sparse.initialization import random_scores


class SparsityAnnealing(pl.Callback):
    """Sets the density of the level that an epoch belongs to; it follows from the epoch alone, so a resume is exact.

    Args:
        epochs: of each level.
        density_of: level, from 1, to density.
        scores: "carry" them from level to level, or "reset" them, and the optimizer's state with them.
        seed: of the scores that are drawn anew.
    """

    def __init__(self, epochs: int, density_of: Callable[[int], float], scores: str, seed: int) -> None:
        self.epochs, self.density_of, self.scores, self.seed = epochs, density_of, scores, seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EdgePopupClassifier)
        level, into = divmod(trainer.current_epoch, self.epochs)
        pl_module.set_density(self.density_of(level + 1))
        if self.scores == "reset" and level and not into:
            self._reset(trainer, pl_module, level)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EdgePopupClassifier)
        kept = sum(pl_module.counts) / sum(layer.size for layer in pl_module.layers)
        pl_module.log("ticket/sparsity", 1 - kept)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EdgePopupClassifier)
        pl_module.set_density(self.density_of(trainer.current_epoch // self.epochs))  # also where all epochs were done

    def _reset(self, trainer: pl.Trainer, module: EdgePopupClassifier, level: int) -> None:
        with torch.no_grad():
            for layer, scores in zip(module.layers, module.scores, strict=True):
                scores.copy_(random_scores(layer, module.search.score_init, self.seed + level))
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
