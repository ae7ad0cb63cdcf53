"""Callbacks that draw and repair masks, scale initial weights, and keep removed weights at zero."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import nn

from ersparse.sparse import mask
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.initialization import scaled_weight
from ersparse.sparse.keep import Handle, keep_gradients, keep_weights
from ersparse.sparse.layers import EMBEDDINGS, prunable_layers, prunable_weights
from ersparse.sparse.rng import generator
from ersparse.sparse.source import Source


def network_of(module: pl.LightningModule) -> nn.Module:
    """Return the network that is masked: the module's `network`, or the module itself if it has none."""
    network = getattr(module, "network", module)
    assert isinstance(network, nn.Module)
    return network


class ERInit(pl.Callback):
    """Draws the masks of the source network in `setup`, by `Source.draw`.

    A resumed run draws as well; its checkpoint then replaces the masks.

    Args:
        source: the source network.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        mask.attach(network_of(pl_module), self.source.draw())


class FlowRepair(pl.Callback):
    """Repairs the flow of the module's masks in `setup`, by `Source.repair`.

    Args:
        source: the source network.

    Attributes:
        counts: counts of the repair by layer name; empty before `setup`.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.counts: dict[str, Counts] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        drawn = {name: kept.cpu() for name, kept in mask.masks_of(network_of(pl_module)).items()}
        masks, self.counts = self.source.repair(drawn)
        mask.attach(network_of(pl_module), masks)


class SparseInit(pl.Callback):
    """Draws all weights but embeddings anew in `setup`, scaled by density (`sparse.initialization.scaled_weight`).

    Args:
        mode: "layer" or "neuron": whose fan-in scales the weights.
        seed: seed of the weights.
    """

    def __init__(self, mode: str, seed: int) -> None:
        self.mode, self.seed = mode, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        masks = mask.masks_of(network_of(pl_module))
        weights = prunable_weights(network_of(pl_module))
        for layer in prunable_layers(network_of(pl_module)):
            weight = weights[layer.name].weight
            if isinstance(weights[layer.name].module, EMBEDDINGS):
                continue
            kept = masks.get(layer.name, torch.ones_like(weight, dtype=torch.bool)).cpu()
            random = generator(self.seed, layer.name, "init")
            weight.data.copy_(layer.from_rows(scaled_weight(layer.to_rows(kept), self.mode, random)))


class FixedMask(pl.Callback):
    """Keeps removed weights, and their gradients, at exactly zero, by `ersparse.sparse.keep`.

    Gradient clipping, closures and optimizers then see the kept weights alone. The hooks are registered when the fit
    starts, on every rank, and removed when it ends.

    Args:
        gradients: whether gradients of removed weights are zero as well. Rewiring with grown_state="keep" needs the
            momentum of removed weights, and therefore their gradients.

    Example:
        >>> trainer = pl.Trainer(gradient_clip_val=1.0, callbacks=[ersparse.FixedMask()])
    """

    def __init__(self, gradients: bool = True) -> None:
        self.gradients = gradients

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.hooks: list[Handle] = [keep_weights(pl_module, optimizer) for optimizer in trainer.optimizers]
        if self.gradients:
            self.hooks.append(keep_gradients(pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        mask.enforce(pl_module)  # an average of rewired networks may have replaced the weights
        for hook in self.hooks:
            hook.remove()
