"""Evaluating a network as it is: a ticket that was found, its controls, a source network that nothing trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ersparse.config.schema import Settings
from ersparse.methods.base import Method

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier
    from ersparse.runs.plan import Plan


class Evaluate(Method):
    """No weight is trained.

    Attributes:
        recalibrate: gather BatchNorm's statistics in one pass over the training images. Without it those of
            `model.init_from` are used; masks or weights that were changed since make them wrong.
    """

    recalibrate: bool

    def epochs(self, settings: Settings) -> int:
        return 1

    def module(self, plan: Plan, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.classifier import Untrained

        s = plan.settings
        return Untrained(network, s.dataset.num_classes, s.optimizer, 1, eval_names, recalibrate=self.recalibrate)

    def callbacks(self, plan: Plan) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask

        return [FixedMask()]
