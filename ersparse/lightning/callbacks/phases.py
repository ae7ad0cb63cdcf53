"""Alternating compressed and decompressed phases of training (AC/DC)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ersparse.lightning.callbacks.masks import network_of
from ersparse.sparse import rewiring
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks, attach, density_of, masks_of


class AlternatingPhases(pl.Callback):
    """Keeps the largest weights of all layers in compressed phases, and trains all of the source's in the others.

    A phase begins with an epoch. Compression keeps exactly the asked number of weights, and clears the optimizer state
    of the others, which start from zero when they return. The phase follows from the epoch alone, so a resumed run
    continues exactly.

    Args:
        layers: prunable layers of the network.
        count: number of weights that compressed phases keep.
        compressed: function from the epoch, counted from 0, to whether it is compressed.
    """

    def __init__(self, layers: list[Layer], count: int, compressed: Callable[[int], bool]) -> None:
        self.layers, self.count, self.compressed = layers, count, compressed
        self.source: Masks = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach full masks to a dense network, and copy the source's masks, before a checkpoint replaces them."""
        network = network_of(pl_module)
        attach_full_masks(network, self.layers)
        self.source = {name: mask.detach().cpu().clone() for name, mask in masks_of(network).items()}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compress or decompress if a phase begins."""
        epoch, network = trainer.current_epoch, network_of(pl_module)
        before, now = epoch > 0 and self.compressed(epoch - 1), self.compressed(epoch)
        if now and not before:
            compress(network, self.count, trainer.optimizers[0])
        elif before and not now:
            for name, mask in masks_of(network).items():
                mask.copy_(self.source[name])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the sparsity."""
        pl_module.log("mask/sparsity", 1 - density_of(masks_of(network_of(pl_module))))


def attach_full_masks(network: nn.Module, layers: list[Layer]) -> None:
    """Attach masks that keep all weights, unless the network has masks."""
    if not masks_of(network):
        attach(network, {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers})


def compress(network: nn.Module, count: int, optimizer: Optimizer) -> None:
    """Keep the `count` largest of the active weights of all layers, and clear the optimizer state of the others."""
    masks = masks_of(network)
    weights: Mapping[str, Tensor] = {name: network.get_parameter(name) for name in masks}
    keep = {name: rewiring.magnitude(weight) for name, weight in weights.items()}
    for name, change in rewiring.prune_globally(masks, keep, count).items():
        rewiring.apply(change, masks[name], weights[name], optimizer.state.get(weights[name], {}))
