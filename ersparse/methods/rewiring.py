"""Rewiring a source network while it trains: RigL, SET, and sparse-to-sparse training (Tables 4, 20 and 21)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ersparse.config.rewiring_rules import RewiringRules
from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.methods.base import RunContext
from ersparse.methods.levels import check_final_sparsity, check_pruning
from ersparse.methods.reparametrized import Reparametrizable
from ersparse.sparse.layers import Layer
from ersparse.sparse.rewiring_rules import DROP, GROW, rule_named
from ersparse.sparse.source import DenseSource, Source

if TYPE_CHECKING:
    import pytorch_lightning as pl

SMOKE_INTERVAL = 10  # steps between updates at scale=smoke, at most


class Rewire(RewiringRules, Reparametrizable):
    """Trains a network whose masks are updated every `delta_t` steps; its keys are those of `RewiringRules`."""

    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled", "graphed", "sparse")
    averages: ClassVar[bool] = True

    def keeps_sparsity(self) -> bool:
        return self.final_sparsity is None

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        pattern = None if isinstance(source, DenseSource) else settings.sparsity.pattern
        self.check_combination("method.", pattern, "sparsity.pattern")
        self._check_rules(settings)
        if self.final_sparsity is None:
            self._check_rewires(settings, source)
        else:
            check_final_sparsity(self.final_sparsity, source)
            check_pruning(self.prune_from, self.prune_until, self.prune_scope, source)
        if self.keep_flow:
            self._check_flow(source)
        if settings.trainer.execution == "sparse":
            self._check_sparse_execution(settings)
        if self.reparametrization != "none":
            self._check_factors(settings)

    def _check_rewires(self, settings: Settings, source: Source) -> None:
        if isinstance(source, DenseSource) or source.nominal == 1.0:
            raise UserError(
                f"sparsity={settings.sparsity.name}: leaves method={self.name} nothing to rewire; must be a sparse "
                "source"
            )
        if self.t_end == 0:
            raise UserError("method.t_end=0: must lie in (0, 1] unless method.final_sparsity is set")

    def _check_rules(self, settings: Settings) -> None:
        rule_named(self.drop, DROP, "method.drop")
        rule_named(self.grow, GROW, "method.grow")
        sparsity = settings.sparsity
        drawn = not (sparsity.keep_mask or settings.model.init_from)
        if self.fan_in and drawn and sparsity.sampling not in ("fan_in", "ramanujan"):
            raise UserError(
                f"sparsity.sampling={sparsity.sampling}: must be fan_in with method.fan_in=true, which keeps the "
                "number of inputs of each output channel"
            )
        by = {"grow": self.grow, "redistribute": self.redistribute}
        if settings.optimizer.name == "sgd" and settings.optimizer.momentum == 0:
            for key in [key for key, value in by.items() if value == "momentum"]:
                raise UserError(f"method.{key}=momentum: needs optimizer.momentum above 0")

    def _check_flow(self, source: Source) -> None:
        if self.final_sparsity is not None:
            raise UserError("method.keep_flow=true: must be false with method.final_sparsity, which prunes globally")
        if source.flow == "none":
            raise UserError(
                "method.keep_flow=true: needs a source whose channels all have edges, sparsity.flow=move, add or "
                "resample"
            )

    def _check_factors(self, settings: Settings) -> None:
        self.check_reparametrization(settings)
        where = f"with method.reparametrization={self.reparametrization}"
        if self.skip_step:
            raise UserError(f"method.skip_step=true: must be false {where}")
        if self.grown_state == "keep":
            raise UserError(f"method.grown_state=keep: must be zero {where}")
        if self.redistribute == "momentum":
            raise UserError(f"method.redistribute=momentum: must be none, gradient or remaining {where}")
        if settings.trainer.execution == "sparse":
            raise UserError(
                f"trainer.execution=sparse: must be auto, masked or compiled {where} and method={self.name}"
            )

    def _check_sparse_execution(self, settings: Settings) -> None:
        if self.grown_state == "keep":
            raise UserError(
                "method.grown_state=keep: must be zero with trainer.execution=sparse, which stores no optimizer state "
                "of removed weights"
            )
        if self.changes_counts:
            check_one_rank(settings, "method.final_sparsity or method.redistribute")

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        rules = self.model_copy(update={"delta_t": at_scale(self.delta_t, run.settings)})
        return [*update_callbacks(rules, run), *self.reparametrization_callbacks()]


def at_scale(delta_t: int, settings: Settings) -> int:
    """Return the number of steps between two updates, at the scale of the run."""
    if settings.scale.name == "smoke":
        return min(delta_t, SMOKE_INTERVAL)
    return max(1, round(delta_t * settings.scale.epochs))


def check_one_rank(settings: Settings, keys: str = "method.final_sparsity") -> None:
    """Check that sparse execution, whose parameters change in number as `keys` say, is on one device."""
    if settings.trainer.ranks > 1:
        raise UserError(f"trainer.execution=sparse: must be auto, masked or compiled with {keys} on several devices")


def update_callbacks(rules: RewiringRules, run: RunContext) -> list[pl.Callback]:
    """Return the callbacks that update masks by `rules`, and record the updates in rewiring.csv."""
    from ersparse.lightning.callbacks import FixedMask
    from ersparse.lightning.callbacks.rewiring import Rewiring
    from ersparse.lightning.callbacks.rewiring_metrics import RewiringMetrics
    from ersparse.lightning.callbacks.sparse_rewiring import SparseRewiring

    sparse = run.settings.trainer.execution == "sparse"
    pattern = getattr(run.source, "pattern", None)
    rewiring = (SparseRewiring if sparse else Rewiring)(rules, run.layers, run.settings.seed_of("mask"), pattern)
    metrics = RewiringMetrics(rewiring, run.layers, run.graph, run.folder / "rewiring.csv")
    fixed = [] if sparse else [FixedMask(gradients=rules.grown_state == "zero")]
    return [*fixed, rewiring, metrics]
