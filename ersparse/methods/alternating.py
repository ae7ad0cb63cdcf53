"""Alternating compressed and decompressed training (AC/DC, Peste et al. 2021)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from ersparse.config.schema import Settings
from ersparse.config.types import Count, Fraction, In
from ersparse.errors import UserError
from ersparse.methods.base import Method, RunContext
from ersparse.methods.levels import check_final_sparsity
from ersparse.sparse.layers import Layer
from ersparse.sparse.schedules import compressed
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl


class AlternatingPruning(Method):
    """Alternates phases that train the whole source with compressed ones, of the largest weights only.

    Attributes:
        final_sparsity: the sparsity of compressed phases, and at the end, relative to the dense network.
        phases: number of compressed phases; 1 is training followed by magnitude pruning.
        dense_first: the part of the training before the first compressed phase.
        sparse_last: the part of the training that the last compressed phase takes. The phases in between are equal.
    """

    final_sparsity: Annotated[float, In("(0, 1)")]
    phases: Count
    dense_first: Fraction
    sparse_last: Annotated[float, In("(0, 1]")]

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        check_final_sparsity(self.final_sparsity, source)
        if self.dense_first + self.sparse_last > 1:
            raise UserError(
                f"method.sparse_last={self.sparse_last}: must be at most 1 - method.dense_first={self.dense_first}"
            )

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask
        from ersparse.lightning.callbacks.phases import AlternatingPhases

        count = round((1 - self.final_sparsity) * sum(layer.size for layer in run.layers))
        parts = (self.phases, self.dense_first, self.sparse_last)
        return [FixedMask(), AlternatingPhases(run.layers, count, partial(compressed, run.epochs, *parts))]
