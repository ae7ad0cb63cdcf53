"""Source networks whose masks have a pattern: N of M inputs, or blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ersparse.sparse.flow_repair import Counts, none
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks
from ersparse.sparse.patterns import Blocks, NOfM, Pattern
from ersparse.sparse.rng import generator
from ersparse.sparse.source import ERSource


@dataclass(frozen=True)
class PatternedSource(ERSource):
    """An ER network of blocks, or with N of M inputs. Layers of density 0 or 1 have no pattern.

    Blocks are drawn and repaired as the weights of smaller layers. Groups of an N:M pattern are drawn uniformly,
    whatever `sampling` is, and repaired by moving weights within them.

    Attributes:
        pattern: the pattern.
    """

    pattern: Pattern = field(kw_only=True)

    def draw(self) -> Masks:
        """Return the masks as drawn, by layer name."""
        patterned = self._patterned()
        if isinstance(self.pattern, NOfM):
            found = {name: self.pattern.draw(layer, generator(self.seed, name)) for name, layer in patterned.items()}
        else:
            blocks = self._blocks(self.pattern).draw()
            found = {name: self.pattern.expand(layer, blocks[name]) for name, layer in patterned.items()}
        whole = zip(self.layers, self.densities, strict=True)
        return {layer.name: found.get(layer.name, torch.full(layer.shape, p == 1)) for layer, p in whole}

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        """Return masks in which every channel has an edge, unless flow="none", and the counts of each layer."""
        patterned = self._patterned()
        counts = {layer.name: none(masks[layer.name], layer, 1.0, generator(0))[1] for layer in self.layers}
        if isinstance(self.pattern, Blocks):
            reduced = {name: self.pattern.reduce(layer, masks[name]) for name, layer in patterned.items()}
            blocks, moved = self._blocks(self.pattern).repair(reduced)
            repaired = {name: self.pattern.expand(layer, blocks[name]) for name, layer in patterned.items()}
            return {**masks, **repaired}, {
                **counts,
                **{name: self._in_weights(counts[name], moved[name]) for name in moved},
            }
        if self.flow == "none":
            return dict(masks), counts
        pairs = {
            name: self.pattern.move(masks[name], layer, generator(self.seed, name, "repair"))
            for name, layer in patterned.items()
        }
        return (
            {**masks, **{name: mask for name, (mask, _) in pairs.items()}},
            {**counts, **{name: count for name, (_, count) in pairs.items()}},
        )

    def drawing_densities(self) -> list[float]:
        """Return the densities at which layers, or their blocks, are drawn.

        Raises:
            FlowError: flow="resample" cannot meet the density of a layer of blocks.
        """
        if not isinstance(self.pattern, Blocks):
            return self.densities
        drawn = dict(zip(self._patterned(), self._blocks(self.pattern).drawing_densities(), strict=True))
        return [drawn.get(layer.name, p) for layer, p in zip(self.layers, self.densities, strict=True)]

    def _patterned(self) -> dict[str, Layer]:
        pairs = zip(self.layers, self.densities, strict=True)
        return {layer.name: layer for layer, p in pairs if 0 < p < 1}

    def _blocks(self, pattern: Blocks) -> ERSource:
        """Return the source of the blocks, as weights of smaller layers."""
        layers = [pattern.reduced(layer) for layer in self._patterned().values()]
        densities = [p for p in self.densities if 0 < p < 1]
        return ERSource(layers, densities, self.nominal, self.seed, self.sampling, self.flow)

    def _in_weights(self, counts: Counts, blocks: Counts) -> Counts:
        """Return the counts of a layer, with those of repaired blocks in weights."""
        assert isinstance(self.pattern, Blocks)
        size = self.pattern.rows * self.pattern.columns
        keys = ("added_in", "added_out", "moved_in", "moved_out")
        return replace(counts, **{key: size * getattr(blocks, key) for key in keys})
