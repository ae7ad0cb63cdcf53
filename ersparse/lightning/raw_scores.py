"""The LightningModule of edge-popup as in the paper's released code: weights times scores, without pruning."""

from __future__ import annotations

from torch import Tensor

from ersparse.lightning.edge_popup import EdgePopupClassifier


class RawScoreClassifier(EdgePopupClassifier):
    """Multiplies every weight of the source network by the magnitude of its score.

    The released code assigns its mask through an index of the wrong shape, which sets 0.2 % of its entries; the others
    remain |score| at every target sparsity. This class does the same for all entries within the source network. It is a
    dense reparametrisation, whose accuracy does not depend on the target sparsity. The recorded masks are those of the
    source network.
    """

    def set_density(self, density: float) -> None:
        """Ignore the density of the level: nothing is pruned."""
        super().set_density(1.0)

    def final_state(self) -> dict[str, Tensor]:
        """Return the products of weights and scores, with the masks of the source network."""
        return super().final_state() | {name: weight.detach() for name, weight in self._weights().items()}

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of the network with weights times score magnitudes."""
        return self.apply_network(x, self._weights())

    def _weights(self) -> dict[str, Tensor]:
        triples = zip(self.names, self.scores, self._source(), strict=True)
        return {name: scores.abs() * weight for name, scores, (weight, _) in triples}
