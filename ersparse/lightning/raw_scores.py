"""What the paper's released edge-popup comes to: weights multiplied by their scores, and nothing pruned."""

from __future__ import annotations

from torch import Tensor

from ersparse.lightning.edge_popup import EdgePopupClassifier


class RawScoreClassifier(EdgePopupClassifier):
    """Every weight of the source is in use, times the magnitude of its score.

    The released code sets its mask by an index of the wrong shape, which reaches 0.2 % of it; elsewhere the mask is
    |score| itself, at every target sparsity. Here that is so everywhere, inside the source: a dense parametrisation,
    whose accuracy does not depend on the target. The masks that it leaves are the source's, and say so.
    """

    def set_density(self, density: float) -> None:
        super().set_density(1.0)

    def product(self) -> dict[str, Tensor]:
        """The weights that classify, under the source's masks."""
        return super().product() | {name: weight.detach() for name, weight in self._weights().items()}

    def logits(self, x: Tensor) -> Tensor:
        return self.through(x, self._weights())

    def _weights(self) -> dict[str, Tensor]:
        triples = zip(self.names, self.scores, self._source(), strict=True)
        return {name: scores.abs() * weight for name, scores, (weight, _) in triples}
