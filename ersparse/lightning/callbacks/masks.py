"""From dense to Erdős–Rényi, and staying so."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import nn

from ersparse.sparse import mask
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.initialization import scaled_weight
from ersparse.sparse.layers import prunable_modules
from ersparse.sparse.rng import generator
from ersparse.sparse.source import Source


def network_of(module: pl.LightningModule) -> nn.Module:
    """What is masked: the module's `network`, or, where it has none, the module itself."""
    network = getattr(module, "network", module)
    assert isinstance(network, nn.Module)
    return network


class ERInit(pl.Callback):
    """Draws the source network's masks before training; a resumed run then gets its own from the checkpoint."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        mask.attach(network_of(pl_module), self.source.draw())


class FlowRepair(pl.Callback):
    """Repairs the flow of the masks that the module holds.

    Attributes:
        counts: by layer, what the repair found and did; empty before `setup`.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.counts: dict[str, Counts] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        masks, self.counts = self.source.repair(mask.masks_of(network_of(pl_module)))
        mask.attach(network_of(pl_module), masks)


class SparseInit(pl.Callback):
    """Draws weights anew, scaled by how many of them are kept: of the layer, or into each neuron."""

    def __init__(self, mode: str, seed: int) -> None:
        self.mode, self.seed = mode, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        masks = mask.masks_of(network_of(pl_module))
        for name, module in prunable_modules(network_of(pl_module)).items():
            kept = masks.get(name, torch.ones_like(module.weight, dtype=torch.bool))
            random = generator(self.seed, name, "init")
            module.weight.data.copy_(scaled_weight(kept, self.mode, random))


class FixedMask(pl.Callback):
    """Removed weights are exactly zero after every optimizer step: also before the next forward pass, also in DDP."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.hooks = [mask.keep(pl_module, optimizer) for optimizer in trainer.optimizers]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for hook in self.hooks:
            hook.remove()
