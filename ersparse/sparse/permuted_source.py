"""The masks of a ticket, matched to another network by a permutation of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ersparse.sparse.mask import Masks
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.source import TicketSource


@dataclass(frozen=True)
class PermutedSource(TicketSource):
    """The masks of a ticket whose channels are permuted to those of another network (Adnan et al. 2025).

    Attributes:
        weights: the weights that the masks were found with, by name.
        others: returns the weights of the other network, by name.
        graph: the channel graph of both networks.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    others: Callable[[], Mapping[str, Tensor]] = dict
    graph: list[ChannelOp] = field(default_factory=list)

    def draw(self) -> Masks:
        """Return the permuted masks by layer name."""
        from ersparse.sparse.weight_matching import matched_masks  # SciPy's optimizers take time to import

        return matched_masks(self.masks, self.weights, self.others(), self.graph, self.seed)
