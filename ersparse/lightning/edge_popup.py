"""The LightningModule of edge-popup: weights stay as they are drawn, scores are trained."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ersparse.config import schema
from ersparse.config.edge_popup_search import EdgePopupSearch
from ersparse.lightning.classifier import Classifier
from ersparse.sparse import edge_popup
from ersparse.sparse.initialization import random_scores
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import Masks, masks_of
from ersparse.sparse.topk import topk_mask


class EdgePopupClassifier(Classifier):
    """Classifies with a ticket, that is, with part of the ER network's weights; the rest is as if it were zero.

    Args:
        network: with its random weights; the ER masks are its buffers by the time training starts, and without any it
            is dense.
        search: how.
        epochs: of each level.
        seed: of the scores.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: schema.OptimizerSettings,
        epochs: int,
        eval_names: list[str],
        search: EdgePopupSearch,
        seed: int,
    ) -> None:
        super().__init__(network, num_classes, optimizer, epochs, eval_names)
        self.search = search
        self.layers = prunable_layers(network)
        self.names = [layer.name for layer in self.layers]
        self._freeze()
        self.scores = nn.ParameterList(random_scores(layer, search.score_init, seed) for layer in self.layers)
        self.scores.to(memory_format=self.memory_format)  # as the weights, or every product would be a copy
        self.counts = [layer.size for layer in self.layers]
        self.near: list[float | None] = [None] * len(self.layers)
        self.chosen: list[Tensor] | None = None
        self.source: list[tuple[Tensor, Tensor]] | None = None

    def _freeze(self) -> None:
        for module in self.network.modules():
            trains = self.search.affine and isinstance(module, _BatchNorm)
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(trains)

    def set_density(self, density: float) -> None:
        """How much of the dense network the ticket has from now on."""
        present = [int(allowed.sum()) for allowed in self._allowed()]
        self.counts = edge_popup.counts(self.layers, density, present, self.search.min_keep)
        self.chosen = self.source = None

    def masks(self) -> Masks:
        return dict(zip(self.names, self._choose(), strict=True))

    def product(self) -> dict[str, Tensor]:
        """The random weights, all of them, and the ticket for a mask."""
        state = dict(self.network.state_dict())
        return state | {f"{name}_mask": ticket for name, ticket in self.masks().items()}

    def trained(self) -> Iterable[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The schedule of a level, once more in each, or once over all of them."""
        levels = self.search.levels
        length = self.epochs if self.search.lr_restart else self.epochs * levels
        milestones = self.milestones(length)
        gamma = self.optimizer_settings.gamma
        return LambdaLR(optimizer, lambda epoch: gamma ** sum(epoch % length >= m for m in milestones))

    def logits(self, x: Tensor) -> Tensor:
        weights = {
            name: edge_popup.masked(scores, weight, ticket, self.search.signed)
            for name, scores, ticket, (weight, _) in zip(
                self.names, self.scores, self._tickets(), self._source(), strict=True
            )
        }
        return self.through(x, weights)

    def _allowed(self) -> list[Tensor]:
        masks = masks_of(self.network)
        return [
            masks[name] if name in masks else torch.ones_like(scores, dtype=torch.bool)
            for name, scores in zip(self.names, self.scores, strict=True)
        ]

    def _source(self) -> list[tuple[Tensor, Tensor]]:
        """Of each layer the ER network's weights, and what keeps scores outside it from being chosen: neither changes
        while scores are trained, and both are needed in every step.
        """
        if self.source is None:
            weights = (self.network.get_parameter(name).detach() for name in self.names)
            pairs = zip(weights, self._allowed(), strict=True)
            self.source = [(weight * allowed, edge_popup.exclusion_bias(allowed)) for weight, allowed in pairs]
        return self.source

    def train(self, mode: bool = True) -> EdgePopupClassifier:
        """Scores change between training steps only: evaluation finds the tickets once."""
        self.chosen = None
        return super().train(mode)

    def _tickets(self) -> list[Tensor]:
        """The masks that follow from the scores. (Fused optimizers leave no trace in a tensor's version.)"""
        if self.training or self.chosen is None:
            self.chosen = self._choose()
        return self.chosen

    def _choose(self) -> list[Tensor]:
        pairs = zip(self.scores, self._source(), strict=True)
        # one by one: what has just been ranked is still in the processor's cache
        values = (edge_popup.ranking(scores, outside, self.search.signed) for scores, (_, outside) in pairs)
        if self.search.scope == "global":
            return self._choose_globally(list(values))
        tickets = []
        for number, (value, count) in enumerate(zip(values, self.counts, strict=True)):
            ticket, self.near[number] = topk_mask(value, count, self.near[number])
            tickets.append(ticket)
        return tickets

    def _choose_globally(self, values: list[Tensor]) -> list[Tensor]:
        """The same total, wherever the scores are; `min_keep` of each layer come first."""
        least = self.search.min_keep
        firsts = [topk_mask(value, min(least, int(value.isfinite().sum())))[0] for value in values]
        raised = [torch.where(first, math.inf, value) for value, first in zip(values, firsts, strict=True)]
        whole = torch.cat([value.flatten() for value in raised])
        ticket, self.near[0] = topk_mask(whole, sum(self.counts), self.near[0])
        parts = torch.split(ticket, [value.numel() for value in values])
        return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]
