"""From dense to Erdős–Rényi, and staying so."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch.optim import Optimizer

from ersparse.sparse import mask
from ersparse.sparse.flow import Counts
from ersparse.sparse.init import scaled_weight
from ersparse.sparse.layers import prunable_modules
from ersparse.sparse.source import Source


class ERInit(pl.Callback):
    """Draws the source network's masks before training; a resumed run then gets its own from the checkpoint."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        mask.attach(pl_module.network, self.source.draw())


class FlowRepair(pl.Callback):
    """Repairs the masks that the module holds. `counts` then says, by layer, what was found and done."""

    counts: dict[str, Counts]

    def __init__(self, source: Source) -> None:
        self.source = source

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        masks, self.counts = self.source.repair(mask.masks_of(pl_module.network))
        mask.attach(pl_module.network, masks)


class SparseInit(pl.Callback):
    """Draws weights anew, scaled by how many of them are kept: of the layer, or into each neuron."""

    def __init__(self, mode: str, seed: int) -> None:
        self.mode, self.seed = mode, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        modules = prunable_modules(pl_module.network)
        for name, kept in mask.masks_of(pl_module.network).items():
            random = mask.generator(self.seed, name, "init")
            modules[name].weight.data.copy_(scaled_weight(kept, self.mode, random))


class FixedMask(pl.Callback):
    """Removed weights are exactly zero after every optimizer step: also before the next forward pass, also in DDP."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        def enforce(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            mask.enforce(pl_module.network)

        mask.enforce(pl_module.network)
        self.hooks = [optimizer.register_step_post_hook(enforce) for optimizer in trainer.optimizers]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for hook in self.hooks:
            hook.remove()
