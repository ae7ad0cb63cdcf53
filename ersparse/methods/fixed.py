"""Training with a fixed mask: weak lottery tickets (section 3, Tables 2, 3, 7-10, 16, 18, 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ersparse.config.schema import Settings
from ersparse.methods.base import RunContext
from ersparse.methods.reparametrized import Reparametrizable
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl


class Fixed(Reparametrizable):
    """Trains every kept weight, and keeps every removed weight at zero."""

    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled", "graphed", "sparse")
    sparse_by_default: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    def keeps_sparsity(self) -> bool:
        return True

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        self.check_reparametrization(settings)

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask

        if run.settings.trainer.execution == "sparse":
            return self.reparametrization_callbacks()  # removed weights are not stored, nothing is reset to zero
        return [FixedMask(), *self.reparametrization_callbacks()]
