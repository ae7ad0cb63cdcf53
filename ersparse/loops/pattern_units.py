"""What an update of masks drops and grows as one: single weights, or the blocks of a pattern."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ersparse.sparse.layers import Layer
from ersparse.sparse.patterns import Blocks, Pattern
from ersparse.sparse.rewiring import Change


class PatternUnits:
    """Converts masks and scores of weights to those of units, and back.

    Units are the blocks of a pattern of blocks. Under any other pattern, and in layers that a pattern of blocks does
    not fit, each weight is a unit.

    Args:
        layers: prunable layers by name.
        pattern: the pattern of the masks; None for none.

    Attributes:
        layers: the layers with units in place of weights.
    """

    def __init__(self, layers: Mapping[str, Layer], pattern: Pattern | None) -> None:
        self._of_weights = layers
        self._blocks: dict[str, Blocks] = {}
        if isinstance(pattern, Blocks):
            self._blocks = {name: pattern for name, layer in layers.items() if not pattern.misfit(layer)}
        self.layers = {
            name: self._blocks[name].reduced(layer) if name in self._blocks else layer for name, layer in layers.items()
        }

    def of(self, name: str, tensor: Tensor) -> Tensor:
        """Return the mask or scores of a layer's units, given those of its weights."""
        blocks = self._blocks.get(name)
        return blocks.reduce(self._of_weights[name], tensor) if blocks else tensor

    def weights(self, name: str, mask: Tensor) -> Tensor:
        """Return the mask of a layer's weights, given that of its units."""
        blocks = self._blocks.get(name)
        return blocks.expand(self._of_weights[name], mask) if blocks else mask

    def change(self, name: str, change: Change) -> Change:
        """Return the change of a layer's weights, given that of its units."""
        return Change(self.weights(name, change.removed), self.weights(name, change.grown))
