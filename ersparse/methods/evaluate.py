"""Evaluation without training: of a ticket, of its controls, of an untrained source network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ersparse.config.schema import Settings
from ersparse.methods.base import Method, RunContext

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier


class Evaluate(Method):
    """Evaluates the network without training a weight.

    Attributes:
        recalibrate: whether BatchNorm's statistics are estimated in one pass over the training images. Otherwise those
            of `model.init_from` are used, which no longer fit masks or weights that were changed since.
    """

    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled")

    recalibrate: bool

    def epochs(self, settings: Settings) -> int:
        return 1

    def module(self, run: RunContext, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.untrained import Untrained

        s = run.settings
        return Untrained(network, s.dataset.num_classes, s.optimizer, 1, eval_names, recalibrate=self.recalibrate)

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask

        return [FixedMask()]
