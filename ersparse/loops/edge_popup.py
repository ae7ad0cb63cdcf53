"""Edge-popup in a loop of one's own: the weights of a network stay as they are, and scores of them are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ersparse.errors import UserError
from ersparse.loops.usable import usable_layers
from ersparse.sparse import edge_popup as popup
from ersparse.sparse.initialization import random_scores
from ersparse.sparse.layers import Layer, parameter_names, prunable_weights
from ersparse.sparse.mask import Masks, attach, enforce, enforce_on_load, masks_of, remove_masks
from ersparse.sparse.selection import Selection
from ersparse.sparse.topk import topk_mask
from ersparse.sparse.wrappers import unwrapped


class Ticket(nn.Module):
    """The parametrization of a weight that keeps those entries whose scores are largest, and trains the scores.

    The ticket is selected in every forward pass, since nothing says when an optimizer has moved the scores.

    Args:
        layer: the layer.
        weight: its weight.
        source: the mask of the ER network; None is a dense one.
        score_init: initial scores, as for `random_scores`.
        signed: whether the score itself counts instead of its magnitude.
        seed: seed of the scores.

    Attributes:
        count: number of weights of the ticket; it is part of the state dict.
    """

    def __init__(
        self, layer: Layer, weight: Tensor, source: Tensor | None, score_init: str, signed: bool, seed: int
    ) -> None:
        super().__init__()
        allowed = torch.ones_like(weight, dtype=torch.bool) if source is None else source
        self.scores = nn.Parameter(torch.empty_like(weight).copy_(random_scores(layer, score_init, seed)))
        self.register_buffer("exclusion", popup.exclusion_bias(allowed).to(weight.dtype))
        self.exclusion: Tensor
        self.layer, self.signed, self.count = layer, signed, int(allowed.sum())
        self.threshold: float | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with zeros outside of the ticket."""
        return popup.masked(self.scores, weight, self.ticket(), self.signed)

    def ticket(self) -> Tensor:
        """Return the mask of the `count` weights with the largest scores."""
        ranking = popup.ranking(self.scores, self.exclusion, self.signed)
        kept, self.threshold = topk_mask(ranking, self.count, self.threshold)
        return kept

    def present(self) -> int:
        """Return the number of weights of the ER network."""
        return int((self.exclusion == 0).sum())

    def get_extra_state(self) -> int:
        return self.count

    def set_extra_state(self, state: int) -> None:
        self.count = state


class EdgePopupSearch:
    """The handle that `edge_popup` returns.

    Attributes:
        tickets: the parametrization of each layer by its name.
        level: the sparsity of the ticket, relative to the dense network.
    """

    def __init__(self, network: nn.Module, tickets: Mapping[str, Ticket], min_keep: int) -> None:
        self.network, self.tickets, self.min_keep = network, tickets, min_keep
        names = parameter_names(network)
        self.holders = {name: [key.rpartition(".")[::2] for key in names[name]] for name in tickets}
        self.frozen = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        for name, ticket in tickets.items():
            for holder, key in self.holders[name]:
                parametrize.register_parametrization(network.get_submodule(holder), key, ticket, unsafe=True)

    def source_density(self) -> float:
        """Return the density of the network in which the ticket is searched."""
        tickets = self.tickets.values()
        return sum(ticket.present() for ticket in tickets) / sum(ticket.layer.size for ticket in tickets)

    @property
    def level(self) -> float:
        """The sparsity of the ticket, relative to the dense network."""
        return 1 - sum(t.count for t in self.tickets.values()) / sum(t.layer.size for t in self.tickets.values())

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained, for the optimizer: the scores, and what was set to require gradients since."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def set_level(self, level: float) -> None:
        """Set the sparsity of the ticket: each layer keeps round((1 - level) N_l) weights, at most those it has.

        Raises:
            UserError: the level is out of range, or a layer would keep no weight.
        """
        if not 0 <= level < 1:
            raise UserError(f"level={level}: must lie in [0, 1)")
        tickets = list(self.tickets.values())
        layers, present = [ticket.layer for ticket in tickets], [ticket.present() for ticket in tickets]
        counts = popup.counts(layers, 1 - level, present, self.min_keep)
        for layer, count in zip(layers, counts, strict=True):
            if count == 0:
                raise UserError(
                    f"level={level}: layer {layer.name} with its {layer.size} weights would keep none; min_keep=1 "
                    "leaves it one"
                )
        for ticket, count in zip(tickets, counts, strict=True):
            ticket.count = count

    def masks(self) -> Masks:
        """Return the present ticket by layer name."""
        return {name: ticket.ticket() for name, ticket in self.tickets.items()}

    def finish(self) -> Masks:
        """End the search: the network gets the ticket as masks, and its removed weights are zero.

        Parameters can be trained again as before the search.
        """
        masks = self.masks()
        for holders in self.holders.values():
            for holder, key in holders:
                module = self.network.get_submodule(holder)
                parametrize.remove_parametrizations(module, key, leave_parametrized=False)
        for parameter in self.frozen:
            parameter.requires_grad_()
        attach(self.network, masks)
        enforce(self.network)
        enforce_on_load(self.network)
        return masks_of(self.network)


def edge_popup(
    network: nn.Module,
    *,
    score_init: Literal["kaiming_uniform", "constant"] = "kaiming_uniform",
    signed: bool = False,
    min_keep: int = 0,
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> EdgePopupSearch:
    """Search for a strong lottery ticket in `network` by edge-popup (Ramanujan et al. 2020), in place.

    Every parameter stays as it is; scores of the weights are trained. Each forward pass computes with the weights whose
    scores are largest in their layer, and the gradient reaches the scores by the straight-through estimator
    (`ersparse.sparse.edge_popup`). With masks, as `sparsify` attaches them, the ticket is searched among the weights
    that they keep, as in the runs of `method=edge_popup`; the masks are taken off until `finish()`. The optimizer is
    made afterwards, with `search.parameters()`. Set `requires_grad` of normalisations if they are to be trained, too.

    Args:
        network: any module with prunable weights, except those of RNN, LSTM and GRU layers (their cells are searched).
        score_init: scores are uniform as PyTorch's weights are, or a constant of each layer.
        signed: whether weights are ranked by the score itself rather than by its magnitude.
        min_keep: number of weights that each layer keeps at least.
        exclude: patterns of weights that are not searched, and keep all their weights.
        seed: seed of the scores.

    Returns:
        A handle with `parameters()`, `set_level()`, `masks()` and `finish()`. At first the ticket is the whole source.

    Raises:
        UserError: a layer cannot be searched. The message is one line, and the network is unchanged.

    Example:
        >>> search = ersparse.edge_popup(network)
        >>> optimizer = torch.optim.SGD(search.parameters(), lr=0.1, momentum=0.9)
        >>> search.set_level(0.9)  # and train
        >>> masks = search.finish()
    """
    network, exclude = unwrapped(network), [exclude] if isinstance(exclude, str) else exclude
    if score_init not in ("kaiming_uniform", "constant"):
        raise UserError(f"score_init={score_init}: must be kaiming_uniform or constant")
    layers, weights = usable_layers(network, Selection(None, exclude, {}, False, False)), prunable_weights(network)
    for layer in layers:
        if isinstance(weights[layer.name].module, nn.RNNBase):
            kind = type(weights[layer.name].module).__name__
            raise UserError(f"{layer.name}: edge-popup cannot replace the weights of {kind}; exclude leaves them out")
    sources = masks_of(network)
    if left_out := sorted(sources.keys() - {layer.name for layer in layers}):
        raise UserError(f"exclude={list(exclude)}: {left_out[0]} has a mask, so it must be searched")
    if sources:
        remove_masks(network)
    tickets = {
        layer.name: Ticket(
            layer, weights[layer.name].weight.detach(), sources.get(layer.name), score_init, signed, seed
        )
        for layer in layers
    }
    return EdgePopupSearch(network, tickets, min_keep)
