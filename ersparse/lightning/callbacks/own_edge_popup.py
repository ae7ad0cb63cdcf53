"""Edge-popup for a LightningModule of one's own."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl

from ersparse.errors import UserError
from ersparse.lightning.callbacks.own_module import whole_network
from ersparse.loops.edge_popup import EdgePopupSearch, edge_popup
from ersparse.sparse.schedules import annealed_density

OPTIONS = ("score_init", "signed", "min_keep", "exclude", "seed")


class EdgePopup(pl.Callback):
    """Searches for a strong lottery ticket in a LightningModule, as `ersparse.edge_popup` does in plain PyTorch.

    The epochs are divided into `levels`, in which the sparsity of the ticket rises from that of the source network to
    `level`. Scores are registered in `setup`, so that `configure_optimizers` finds them in `self.parameters()`; all
    other parameters are frozen. When the fit ends, the network has the ticket as its masks. Checkpoints of the fit hold
    the scores, and resume it.

    Args:
        level: the sparsity of the ticket that is reached, relative to the dense network, in (0, 1).
        levels: number of steps in which the sparsity rises; at most the number of epochs.
        schedule: of the density over levels, "geometric" or "linear".
        **options: those of `ersparse.edge_popup`: score_init, signed, min_keep, exclude, seed.

    Raises:
        UserError: an argument is out of range; or, when the fit starts, a layer cannot be searched, or the network is
            sparser than `level`.

    Example:
        >>> ersparse.sparsify(module.network, "uniform", 0.5)
        >>> trainer = pl.Trainer(max_epochs=10, callbacks=[ersparse.EdgePopup(0.95, levels=5)])
    """

    def __init__(
        self, level: float = 0.95, *, levels: int = 5, schedule: Literal["geometric", "linear"] = "geometric",
        **options: Any,
    ) -> None:  # fmt: skip
        if not 0 < level < 1:
            raise UserError(f"level={level}: must lie in (0, 1)")
        if levels < 1:
            raise UserError(f"levels={levels}: must be a positive number of levels")
        if schedule not in ("geometric", "linear"):
            raise UserError(f"schedule={schedule}: must be geometric or linear")
        if unknown := sorted(options.keys() - set(OPTIONS)):
            raise UserError(f"{unknown[0]}={options[unknown[0]]}: no such option; the options are {', '.join(OPTIONS)}")
        self.level, self.levels, self.schedule, self.options = level, levels, schedule, options
        self.search: EdgePopupSearch | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Register the scores, before the optimizer is made."""
        if stage != "fit" or self.search:
            return
        epochs = trainer.max_epochs or 0
        if epochs < self.levels:
            raise UserError(f"levels={self.levels}: must be at most the Trainer's max_epochs={epochs}")
        self.search = edge_popup(whole_network(pl_module), **self.options)
        self.start = self.search.source_density()
        if 1 - self.level > self.start:
            self.search.finish()
            self.search = None
            raise UserError(f"level={self.level}: must be at least the sparsity {1 - self.start:.6g} of the network")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._set_level(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._set_level(trainer)

    def _set_level(self, trainer: pl.Trainer) -> None:
        """Set the sparsity of the level, which follows from the epoch alone."""
        assert self.search and trainer.max_epochs
        number = min(trainer.current_epoch // (trainer.max_epochs // self.levels) + 1, self.levels)
        density = annealed_density(self.start, 1 - self.level, number, self.levels, self.schedule)
        self.search.set_level(1 - density)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the network the ticket as masks."""
        if self.search:
            self.search.finish()
        self.search = None
