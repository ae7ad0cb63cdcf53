"""Methods whose sparsity is an outcome of training: STR (Kusupati et al. 2020) and spred (Ziyin & Wang 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ersparse.config.schema import Settings
from ersparse.config.types import NonNegative
from ersparse.errors import UserError
from ersparse.methods.base import Method, RunContext
from ersparse.sparse.layers import Layer
from ersparse.sparse.reparametrization import Product, Rule, SoftThreshold
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier


class LearntSparsity(Method):
    """Trains weights by a rule that makes many of them zero, and removes these at the end of the last epoch."""

    def rule(self) -> Rule:
        """Return how weights are computed from trained parts."""
        raise NotImplementedError

    def largest_zero(self) -> float:
        """Return the largest magnitude that counts as zero."""
        return 0.0

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        if settings.optimizer.weight_decay == 0:
            raise UserError(
                f"optimizer.weight_decay=0.0: must be above 0 with method={self.name}, or nothing is pruned"
            )
        for key, value in settings.optimizer.ham.model_dump().items():
            if value:
                raise UserError(f"optimizer.ham.{key}={value}: must be 0 with method={self.name}")

    def module(self, run: RunContext, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.reparametrization import Reparametrization

        module = super().module(run, network, eval_names)
        module.reparametrization = Reparametrization({layer.name: self.rule() for layer in run.layers})
        return module

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask
        from ersparse.lightning.callbacks.zeros_as_mask import ZerosAsMask

        return [FixedMask(), ZerosAsMask(run.layers, self.largest_zero())]


class LearntThreshold(LearntSparsity):
    """STR: each layer has a trained soft threshold.

    Attributes:
        initial: the parameter s of each threshold σ(s) at the start.
    """

    initial: float

    def rule(self) -> Rule:
        return SoftThreshold(self.initial)


class Spred(LearntSparsity):
    """spred: the product of two factors with weight decay, which is a network with an L1 penalty.

    Attributes:
        threshold: magnitude up to which a weight counts as zero at the end.
    """

    threshold: NonNegative

    def rule(self) -> Rule:
        return Product(0.0)

    def largest_zero(self) -> float:
        return self.threshold
