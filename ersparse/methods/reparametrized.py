"""Keys of methods whose weights may be trained as products of two factors: Sign-In and PILoT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ersparse.config.groups import SettingsGroup
from ersparse.config.schema import Settings
from ersparse.config.types import Count, In, NonNegative, Positive, Since
from ersparse.errors import UserError
from ersparse.methods.base import Method, RunContext

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier


class FactorSettings(SettingsGroup):
    """Settings of factors m and w.

    Attributes:
        scale: inner scale m² − w² at initialisation, and after a reset.
        reset_every: epochs from one reset to the next, with sign_in.
        penalty: strength α of the penalty α (m² + w²) in the first epoch, with pilot.
        penalty_decay: factor of α from one epoch to the next, with pilot.
    """

    scale: Annotated[Positive, Since(1.0)] = 1.0
    reset_every: Annotated[Count, Since(10)] = 10
    penalty: Annotated[NonNegative, Since(1e-4)] = 1e-4
    penalty_decay: Annotated[Annotated[float, In("(0, 1]")], Since(0.95)] = 0.95


class Reparametrizable(Method):
    """A method that trains the kept weights themselves, or factors of them.

    Attributes:
        reparametrization: "none"; "sign_in" resets the inner scale every few epochs; "pilot" penalises the factors at
            first.
        factors: settings of the factors.
    """

    reparametrization: Annotated[Literal["none", "sign_in", "pilot"], Since("none")] = "none"
    factors: Annotated[FactorSettings, Since({})] = Field(default_factory=FactorSettings)

    def check_reparametrization(self, settings: Settings) -> None:
        """Check that nothing else changes weights between two steps of the optimizer.

        Raises:
            UserError: HAM does.
        """
        for key, value in settings.optimizer.ham.model_dump().items():
            if value and self.reparametrization != "none":
                raise UserError(
                    f"optimizer.ham.{key}={value}: must be 0 with method.reparametrization={self.reparametrization}"
                )

    def module(self, run: RunContext, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.reparametrization import Reparametrization
        from ersparse.sparse.reparametrization import Product

        module = super().module(run, network, eval_names)
        if self.reparametrization != "none":
            product = Product(self.factors.scale)
            module.reparametrization = Reparametrization({layer.name: product for layer in run.layers})
        return module

    def reparametrization_callbacks(self) -> list[pl.Callback]:
        """Return the callback that changes the factors during training, if there are any."""
        from ersparse.lightning.callbacks.parts import TrainedParts

        if self.reparametrization == "sign_in":
            return [TrainedParts(self.factors.reset_every)]
        if self.reparametrization == "pilot":
            return [TrainedParts(None, self.factors.penalty, self.factors.penalty_decay)]
        return []
