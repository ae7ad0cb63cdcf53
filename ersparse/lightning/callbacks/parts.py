"""Callback for weights that are computed from trained parts: resets, a penalty that decays, and rewiring."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
from torch import nn

from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.reparametrization import Reparametrization
from ersparse.sparse.rewiring import Change


class TrainedParts(pl.Callback):
    """Changes the parts of a module's weights at the start of epochs, and after updates of the masks.

    What happens follows from the epoch alone, so a resumed run continues exactly.

    Args:
        reset_every: epochs after which all weights are split anew; None never resets.
        penalty: strength of the penalty on the parts in the first epoch.
        penalty_decay: factor of the penalty from one epoch to the next.
    """

    def __init__(self, reset_every: int | None, penalty: float = 0.0, penalty_decay: float = 1.0) -> None:
        self.reset_every, self.penalty, self.penalty_decay = reset_every, penalty, penalty_decay

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Split weights anew that an update of the masks has removed or grown."""
        parts = _parts_of(pl_module)

        def after_update(step: int, network: nn.Module, changes: Mapping[str, Change]) -> None:
            for name, change in changes.items():
                parts.split_changed(name, change.removed | change.grown, trainer.optimizers[0])

        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Rewiring):
                callback.listeners.append(after_update)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the penalty of the epoch, and reset the parts if it is due."""
        parts, epoch = _parts_of(pl_module), trainer.current_epoch
        parts.penalty = self.penalty * self.penalty_decay**epoch
        if self.reset_every and epoch and epoch % self.reset_every == 0:
            parts.split_again()


def _parts_of(module: pl.LightningModule) -> Reparametrization:
    assert isinstance(module, Classifier) and module.reparametrization
    return module.reparametrization
