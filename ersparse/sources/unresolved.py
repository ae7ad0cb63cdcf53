"""Sources whose layer densities have yet to be computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ersparse.config.schema import Settings
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks
from ersparse.sparse.source import Source


@dataclass(frozen=True)
class UnresolvedSource:
    """Placeholder for a source whose layer densities have not been computed.

    `densities` returns the global density for every layer, which suffices for cost estimates; `draw` and `repair`
    raise.
    """

    layers: list[Layer]
    nominal: float
    settings: Settings

    @property
    def densities(self) -> list[float]:
        return [self.nominal] * len(self.layers)

    @property
    def flow(self) -> str:
        return "none" if self.settings.sparsity.keep_mask else self.settings.sparsity.flow

    def draw(self) -> Masks:
        raise AssertionError("the layer densities have not been computed")

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        raise AssertionError("the layer densities have not been computed")

    def resolved(self) -> Source | None:
        """Return the source if its densities have been computed already, else None."""
        raise NotImplementedError
