"""Annealing of the ticket's density over the levels of edge-popup."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_lightning as pl
import torch

from ersparse.lightning.edge_popup import EdgePopupClassifier
from ersparse.sparse.initialization import random_scores


class SparsityAnnealing(pl.Callback):
    """Sets the density of the current level at the start of every epoch, by `EdgePopupClassifier.set_density`.

    The level follows from the epoch alone, so a resumed run continues exactly. At the start of a level after the first,
    scores are optionally drawn anew (`ersparse.sparse.initialization.random_scores`).

    Args:
        epochs: number of epochs of each level.
        density_of: function from the level, counted from 1, to its density.
        scores: "carry" keeps scores and optimizer state at the start of a level; "reset" draws scores anew and clears
            the optimizer state.
        seed: seed of the scores; level t uses seed + t.
    """

    def __init__(self, epochs: int, density_of: Callable[[int], float], scores: str, seed: int) -> None:
        self.epochs, self.density_of, self.scores, self.seed = epochs, density_of, scores, seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, EdgePopupClassifier)
        level, epoch_in_level = divmod(trainer.current_epoch, self.epochs)
        pl_module.set_density(self.density_of(level + 1))
        if self.scores == "reset" and level and not epoch_in_level:
            self._reset(trainer, pl_module, level)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the sparsity of the ticket."""
        assert isinstance(pl_module, EdgePopupClassifier)
        kept = sum(pl_module.counts) / sum(layer.size for layer in pl_module.layers)
        pl_module.log("ticket/sparsity", 1 - kept)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the final density, also if a resumed run has no epoch left."""
        assert isinstance(pl_module, EdgePopupClassifier)
        pl_module.set_density(self.density_of(trainer.current_epoch // self.epochs))

    def _reset(self, trainer: pl.Trainer, module: EdgePopupClassifier, level: int) -> None:
        with torch.no_grad():
            for layer, scores in zip(module.layers, module.scores, strict=True):
                scores.copy_(random_scores(layer, module.search.score_init, self.seed + level))
        for optimizer in trainer.optimizers:
            optimizer.state.clear()
