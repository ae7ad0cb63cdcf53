"""Rewiring and pruning schedules for a LightningModule of one's own."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytorch_lightning as pl
from torch import nn

from ersparse.errors import UserError
from ersparse.lightning.callbacks.masks import FixedMask, network_of
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.loops.prune import Score, prune
from ersparse.loops.rewire import kept_pattern, rewiring_rules
from ersparse.loops.usable import usable_layers
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import density_of, masks_of
from ersparse.sparse.schedules import pruned_density


def whole_network(module: pl.LightningModule) -> nn.Module:
    """Return the module's `network` if all its prunable weights are there, or the module itself."""
    network = network_of(module)
    return network if len(prunable_weights(network)) == len(prunable_weights(module)) else module


class Rewire(Rewiring):
    """Rewires a network while it trains: RigL, SET or GraNet, as `ersparse.rewire` does in plain PyTorch.

    It keeps removed weights and their gradients at zero as well; `FixedMask` is not needed beside it. The prunable
    layers are those of the module's `network`, if all are there, or of the module itself.

    Args:
        method: "rigl", "set", "granet", or another one that `ersparse.rewire` takes.
        seed: seed of random growth and of flow repair.
        pattern: the pattern that the masks have and keep, as for `sparsify`.
        **options: keys of the method, such as delta_t=100, with the defaults of `conf/method/rigl.yaml`.

    Raises:
        UserError: an argument is unknown or out of range; or, when the fit starts, the module has no masks.

    Example:
        >>> ersparse.sparsify(module.network, "erk", 0.9)
        >>> trainer = pl.Trainer(callbacks=[ersparse.Rewire("rigl", delta_t=100)])
    """

    def __init__(self, method: str = "rigl", *, seed: int = 0, pattern: str | None = None, **options: Any) -> None:
        super().__init__(rewiring_rules(method, options), [], seed)
        self.kept_pattern = pattern
        self.fixed = FixedMask(gradients=self.rules.grown_state == "zero")

    def network_in(self, module: pl.LightningModule) -> nn.Module:
        return whole_network(module)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read the layers of the module, and attach full masks to a dense one that is pruned."""
        network = self.network_in(pl_module)
        if not masks_of(network) and self.rules.final_sparsity is None:
            raise UserError(f"module={type(pl_module).__name__}: has no masks; call sparsify first")
        self.layers = {layer.name: layer for layer in usable_layers(network)}
        self.pattern = kept_pattern(self.rules, self.kept_pattern, list(self.layers.values()), masks_of(network))
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.fixed.on_fit_start(trainer, pl_module)
        super().on_fit_start(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_fit_end(trainer, pl_module)
        self.fixed.on_fit_end(trainer, pl_module)


class Prune(pl.Callback):
    """Prunes a network by a schedule while it trains: gradual pruning (Zhu & Gupta 2018, eq. 1).

    Every `every` optimizer steps between the parts `start` and `end` of the training, `ersparse.prune` lowers the
    density, at the last of them to exactly `level`. Removed weights and their gradients are zero, as with `FixedMask`.

    Args:
        level: the sparsity that is reached, in [0, 1).
        every: optimizer steps from one update to the next.
        start: part of the training after which pruning starts, in [0, 1).
        end: part of the training after which nothing is pruned, in (start, 1].
        by: score of the weights that are kept: "magnitude", "random", or a function from the network to scores.
        scope: "global" or "layer", as for `ersparse.prune`.
        seed: seed of random scores.

    Raises:
        UserError: an argument is out of range; or, when the fit starts, no step is due, or the network is sparser.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ersparse.Prune(0.95, every=100)])
    """

    def __init__(
        self,
        level: float,
        *,
        every: int = 100,
        start: float = 0.0,
        end: float = 0.75,
        by: Literal["magnitude", "random"] | Score = "magnitude",
        scope: Literal["global", "layer"] = "global",
        seed: int = 0,
    ) -> None:
        if not 0 <= level < 1:
            raise UserError(f"level={level}: must lie in [0, 1)")
        if every < 1:
            raise UserError(f"every={every}: must be a positive number of steps")
        if not 0 <= start < end <= 1:
            raise UserError(f"start={start}, end={end}: must be parts of the training, 0 <= start < end <= 1")
        self.level, self.every, self.start, self.end = level, every, start, end
        self.by, self.scope, self.seed = by, scope, seed
        self.start_density: float | None = None
        self.fixed = FixedMask()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the steps at which weights are pruned."""
        steps, network = int(trainer.estimated_stepping_batches), whole_network(pl_module)
        self.first = math.ceil(self.start * steps / self.every) * self.every
        self.last = math.floor(self.end * steps / self.every) * self.every
        if self.last < max(self.first, self.every):
            raise UserError(f"every={self.every}: no step is due between {self.start} and {self.end} of {steps} steps")
        if self.start_density is None:
            self.start_density = density_of(masks_of(network))
        if 1 - self.level > self.start_density:
            raise UserError(f"level={self.level}: must be at least the sparsity {1 - self.start_density:.6g}")
        self.step = trainer.global_step
        self.fixed.on_fit_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self.step or step % self.every or not self.first <= step <= self.last:
            return
        assert self.start_density is not None
        self.step, network = step, whole_network(pl_module)
        part = 1.0 if step == self.last else (step - self.first) / (self.last - self.first)
        density = pruned_density(self.start_density, 1 - self.level, part, "cubic")
        if 0 < density < density_of(masks_of(network)):
            prune(network, 1 - density, self.by, scope=self.scope, seed=self.seed)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.fixed.on_fit_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"start_density": self.start_density}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start_density = state_dict["start_density"]
