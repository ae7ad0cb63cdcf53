"""The LightningModule of edge-popup: weights stay at their random values, scores are trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ersparse.config.edge_popup_search import EdgePopupSearch
from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.config.schedule_settings import ScheduleSettings
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.parameter_groups import norm_parameters
from ersparse.lightning.schedules import restarting
from ersparse.sparse import edge_popup
from ersparse.sparse.initialization import random_scores
from ersparse.sparse.joint_topk import LARGEST_TOTAL, JointTopK
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.mask import Masks, masks_of
from ersparse.sparse.topk import topk_mask


class EdgePopupClassifier(Classifier):
    """Searches for a strong lottery ticket: the supermask of the ER network's weights with the largest scores.

    `ersparse.sparse.edge_popup` defines the forward and backward pass.

    Args:
        network: the network with its random weights. The ER masks are its buffers when training starts; without any,
            the source network is dense.
        num_classes: number of classes of the data set.
        optimizer: settings of the optimizer; milestones are fractions of a level, or of the run.
        epochs: number of epochs of each level.
        eval_names: names of the dataloaders of the validation loop, in their order.
        search: settings of the search.
        seed: seed of the scores.
        schedule: learning-rate schedule of each level, or of the run; None is the multi-step schedule.
        layers: the layers among whose weights the ticket is; None is every prunable layer. Others keep all weights.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerSettings,
        epochs: int,
        eval_names: list[str],
        search: EdgePopupSearch,
        seed: int,
        schedule: ScheduleSettings | None = None,
        layers: Sequence[Layer] | None = None,
    ) -> None:
        super().__init__(network, num_classes, optimizer, epochs, eval_names, schedule)
        self.search = search
        self.layers = prunable_layers(network) if layers is None else list(layers)
        self.names = [layer.name for layer in self.layers]
        self._freeze()
        self.scores = nn.ParameterList(random_scores(layer, search.score_init, seed) for layer in self.layers)
        self.scores.to(memory_format=self.memory_format)  # that of the weights, or every product would copy
        self.counts = [layer.size for layer in self.layers]
        self.least = [0] * len(self.layers)  # weights that each layer keeps at least, if the scope is global
        self.thresholds: list[float | None] = [None] * len(self.layers)  # of the previous selection, by layer
        self._cached_tickets: list[Tensor] | None = None
        self._joint: JointTopK | None = None
        self._cached_source: list[tuple[Tensor, Tensor]] | None = None

    def _freeze(self) -> None:
        affine = norm_parameters(self.network) - set(self.names) if self.search.affine else set()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in affine)

    def set_density(self, density: float) -> None:
        """Set the density of the ticket, relative to the dense network."""
        present = [int(allowed.sum()) for allowed in self._allowed()]
        before = self.counts, self.least
        self.counts = edge_popup.counts(self.layers, density, present, self.search.min_keep)
        self.least = [min(self.search.min_keep, there) for there in present]
        self._cached_tickets = self._joint = None
        self._refresh_source()
        if self.graphs and before != (self.counts, self.least):
            self.graphs.forget()

    def masks(self) -> Masks:
        """Return the current ticket by layer name."""
        return dict(zip(self.names, self._select_tickets(), strict=True))

    def final_state(self) -> dict[str, Tensor]:
        """Return all random weights, with the ticket as masks."""
        state = dict(self.network.state_dict())
        return state | {f"{name}_mask": ticket for name, ticket in self.masks().items()}

    def trainable_parameters(self) -> Iterable[nn.Parameter]:
        """Return the scores, and scale and shift of normalisations if these are trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def trainable_names(self) -> list[str]:
        """Return the names of `trainable_parameters`; scores have those of their layers."""
        affine = [name for name, parameter in self.network.named_parameters() if parameter.requires_grad]
        return [*affine, *self.names]

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the schedule, restarted in each level, or once over all levels."""
        levels = self.search.levels
        length = self.epochs if self.search.lr_restart else self.epochs * levels
        if not self.schedule_settings.is_plain_multistep():
            per_epoch = self.steps_per_epoch() if self.schedule_settings.interval == "step" else 1
            return restarting(optimizer, lambda epoch: (length, epoch % length), self.schedule_over, per_epoch)
        milestones = self.milestones(length)
        gamma = self.optimizer_settings.gamma
        return LambdaLR(optimizer, lambda epoch: gamma ** sum(epoch % length >= m for m in milestones))

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of the ticket; their gradient reaches the scores by the straight-through estimator."""
        weights = {
            name: edge_popup.masked(scores, weight, ticket, self.search.signed)
            for name, scores, ticket, (weight, _) in zip(
                self.names, self.scores, self._tickets(), self._source(), strict=True
            )
        }
        return self.apply_network(x, weights)

    def _allowed(self) -> list[Tensor]:
        """Return the mask of the ER network for each layer; all True for a dense source."""
        masks = masks_of(self.network)
        return [
            masks[name] if name in masks else torch.ones_like(scores, dtype=torch.bool)
            for name, scores in zip(self.names, self.scores, strict=True)
        ]

    def _source(self) -> list[tuple[Tensor, Tensor]]:
        """Return the ER network's weights and the exclusion bias of each layer.

        Both are constant while scores are trained, and needed in every step, so they are cached.
        """
        if self._cached_source is None:
            self._cached_source = self._compute_source()
        return self._cached_source

    def _compute_source(self) -> list[tuple[Tensor, Tensor]]:
        weights = (self.network.get_parameter(name).detach() for name in self.names)
        pairs = zip(weights, self._allowed(), strict=True)
        return [(weight * allowed, edge_popup.exclusion_bias(allowed)) for weight, allowed in pairs]

    def _refresh_source(self) -> None:
        """Compute the cached tensors anew, in place on the same device: a recorded step reads them where they are."""
        cached, self._cached_source = self._cached_source, self._compute_source()
        if cached and cached[0][0].device == self._cached_source[0][0].device:
            for old, new in zip(cached, self._cached_source, strict=True):
                for tensor, values in zip(old, new, strict=True):
                    tensor.copy_(values)
            self._cached_source = cached

    def train(self, mode: bool = True) -> EdgePopupClassifier:
        """Set training or evaluation mode, and drop the cached tickets: the scores may have changed since."""
        self._cached_tickets = None
        return super().train(mode)

    def _tickets(self) -> list[Tensor]:
        """Return the masks that follow from the scores, selected anew in each training step, once for evaluation.

        Tensor versions cannot serve as a cache key, because fused optimizers do not increment them.
        """
        if self.training or self._cached_tickets is None:
            self._cached_tickets = self._select_tickets()
        return self._cached_tickets

    def _select_tickets(self) -> list[Tensor]:
        """Return for each layer the mask of the weights with the largest scores."""
        pairs = zip(self.scores, self._source(), strict=True)
        # a generator: each ranking is selected from while it is still in the processor's cache
        rankings = (edge_popup.ranking(scores, bias, self.search.signed) for scores, (_, bias) in pairs)
        if self.search.scope == "global":
            return self._select_globally(list(rankings))
        if self._selects_jointly():
            return self._select_jointly(list(rankings))
        tickets = []
        for index, (ranking, count) in enumerate(zip(rankings, self.counts, strict=True)):
            ticket, self.thresholds[index] = topk_mask(ranking, count, self.thresholds[index])
            tickets.append(ticket)
        return tickets

    def _selects_jointly(self) -> bool:
        """Return whether one selection for all layers is faster: on a GPU, in networks that are not large."""
        return self.scores[0].device.type != "cpu" and sum(layer.size for layer in self.layers) <= LARGEST_TOTAL

    def _select_jointly(self, rankings: list[Tensor]) -> list[Tensor]:
        """Select in each layer, by operations on all layers together."""
        if self._joint is None:
            sizes = [layer.size for layer in self.layers]
            self._joint = JointTopK(sizes, self.counts, rankings[0].device)
        return self._joint.masks(rankings)

    def _select_globally(self, rankings: list[Tensor]) -> list[Tensor]:
        """Select the same total over all layers, after the best `min_keep` weights of each layer."""
        firsts = [topk_mask(ranking, least)[0] for ranking, least in zip(rankings, self.least, strict=True)]
        raised = [torch.where(first, math.inf, ranking) for first, ranking in zip(firsts, rankings, strict=True)]
        whole = torch.cat([ranking.flatten() for ranking in raised])
        ticket, self.thresholds[0] = topk_mask(whole, sum(self.counts), self.thresholds[0])
        parts = torch.split(ticket, [ranking.numel() for ranking in rankings])
        return [part.reshape(ranking.shape) for part, ranking in zip(parts, rankings, strict=True)]
