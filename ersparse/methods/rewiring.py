"""Rewiring a source network as it trains: RigL, SET, and sparse-to-sparse training (Tables 4, 20 and 21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ersparse.config.schema import Count, In, Settings
from ersparse.errors import UserError
from ersparse.methods.base import Method
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source, repairs

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from ersparse.runs.plan import Plan

SMOKE = 10  # steps between updates at scale=smoke, at most


class Rewire(Method):
    """Every `delta_t` steps some weights are dropped and as many grown elsewhere in their layer.

    Attributes:
        delta_t: optimizer steps from one update to the next.
        drop_fraction: of a layer's active weights, at the start.
        final_fraction: the same when rewiring ends, for a decay that goes anywhere.
        decay: of the fraction in between: "cosine", "linear", or "constant".
        t_end: the part of the training after which nothing is rewired.
        grow: by the "gradient" that inactive weights have, the largest first, or at "random".
        regrow: whether a weight that an update drops may be grown by it at once; it then stays as it is.
        scope: the fraction is taken of each "layer", or "global"ly, wherever the smallest weights lie. A layer grows
            what it dropped either way.
        skip_step: leave out the optimizer's step at an update, as RigL's own code does.
        grown_value: "zero", or "random" (Kaiming normal).
        grown_state: the optimizer's state of grown weights: "zero", or what it is ("keep").
        keep_flow: every channel keeps an edge.
        final_sparsity: null, or what global magnitude pruning takes the network to on the way.
        schedule: of the density on the way there: "cubic".
        prune_until: the part of the training after which nothing is pruned.
    """

    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled", "sparse")

    delta_t: Count
    drop_fraction: Annotated[float, In("(0, 1)")]
    final_fraction: Annotated[float, In("[0, 1)")]
    decay: Literal["cosine", "linear", "constant"]
    t_end: Annotated[float, In("(0, 1]")]
    grow: Literal["gradient", "random"]
    regrow: bool
    scope: Literal["layer", "global"]
    skip_step: bool
    grown_value: Literal["zero", "random"]
    grown_state: Literal["zero", "keep"]
    keep_flow: bool
    final_sparsity: Annotated[float, In("(0, 1)")] | None
    schedule: Literal["cubic", "constant"]
    prune_until: Annotated[float, In("(0, 1]")]

    def interval(self, settings: Settings) -> int:
        """Steps between two updates, at this scale."""
        if settings.scale.name == "smoke":
            return min(self.delta_t, SMOKE)
        return max(1, round(self.delta_t * settings.scale.epochs))

    def check(self, settings: Settings, layers: list[Layer], source: Source | None) -> None:
        start = source.nominal if source else 1.0
        if self.final_sparsity is None and start == 1.0:
            raise UserError(
                f"sparsity={settings.sparsity.name}: leaves method={self.name} nothing to rewire; must be a sparse "
                "source"
            )
        if self.final_sparsity is not None and 1 - self.final_sparsity > start:
            raise UserError(
                f"method.final_sparsity={self.final_sparsity}: must be at least the source's sparsity {1 - start:g}"
            )
        if self.keep_flow and self.final_sparsity is not None:
            raise UserError("method.keep_flow=true: must be false with method.final_sparsity, which prunes globally")
        if self.keep_flow and not repairs(source):
            raise UserError(
                "method.keep_flow=true: needs a source whose channels all have edges, sparsity.flow=move, add or "
                "resample"
            )
        if settings.trainer.execution == "sparse":
            self._check_sparse(settings)

    def _check_sparse(self, settings: Settings) -> None:
        if self.grown_state == "keep":
            raise UserError(
                "method.grown_state=keep: must be zero with trainer.execution=sparse, which remembers nothing of "
                "removed weights"
            )
        if self.final_sparsity is not None and settings.trainer.ranks > 1:
            raise UserError(
                "trainer.execution=sparse: must be auto, masked or compiled with method.final_sparsity on several "
                "devices"
            )

    def callbacks(self, plan: Plan) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask
        from ersparse.lightning.callbacks.rewiring import Rewiring, Rules
        from ersparse.lightning.callbacks.rewiring_metrics import RewiringMetrics
        from ersparse.lightning.callbacks.sparse_rewiring import SparseRewiring
        from ersparse.storage.run_folder import RunFolder

        rules = Rules(
            delta_t=self.interval(plan.settings),
            final_density=None if self.final_sparsity is None else 1 - self.final_sparsity,
            **{
                key: getattr(self, key) for key in Rules.__dataclass_fields__ if key not in ("delta_t", "final_density")
            },
        )
        sparse = plan.settings.trainer.execution == "sparse"
        rewiring = (SparseRewiring if sparse else Rewiring)(rules, plan.layers, plan.settings.seed_of("mask"))
        measures = RewiringMetrics(rewiring, plan.layers, plan.steps, RunFolder(plan.folder).path / "rewiring.csv")
        return [*([] if sparse else [FixedMask()]), rewiring, measures]
