"""Gradual magnitude pruning while training (Zhu & Gupta 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ersparse.config.rewiring_rules import RewiringRules
from ersparse.config.schema import Settings
from ersparse.config.types import Count, In
from ersparse.loops.rewire import rewiring_rules
from ersparse.methods.base import Method, RunContext
from ersparse.methods.levels import check_final_sparsity, check_pruning
from ersparse.methods.rewiring import at_scale, check_one_rank, update_callbacks
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl


class GradualPruning(Method):
    """Trains a network while its density falls on a cubic schedule: GraNet without dropping and growing.

    Attributes:
        final_sparsity: the sparsity at the end, relative to the dense network.
        delta_t: optimizer steps from one pruning to the next.
        prune_from: the part of the training before which nothing is pruned.
        prune_until: the part of the training after which nothing is pruned.
        prune_scope: as in `RewiringRules`.
    """

    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled", "graphed", "sparse")
    averages: ClassVar[bool] = True

    final_sparsity: Annotated[float, In("(0, 1)")]
    delta_t: Count
    prune_from: Annotated[float, In("[0, 1)")]
    prune_until: Annotated[float, In("(0, 1]")]
    prune_scope: Literal["global", "layer"]

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        check_final_sparsity(self.final_sparsity, source)
        check_pruning(self.prune_from, self.prune_until, self.prune_scope, source)
        if settings.trainer.execution == "sparse":
            check_one_rank(settings)

    def rules(self, settings: Settings) -> RewiringRules:
        """Return the rules of updates that prune and never rewire."""
        keys = ("final_sparsity", "prune_from", "prune_until", "prune_scope")
        pruning = {key: getattr(self, key) for key in keys} | {"delta_t": at_scale(self.delta_t, settings)}
        return rewiring_rules("granet", pruning | {"t_end": 0.0, "grow": "random"})

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        return update_callbacks(self.rules(run.settings), run)
