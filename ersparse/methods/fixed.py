"""Training with a fixed mask: weak lottery tickets (section 3, Tables 2, 3, 7-10, 16, 18, 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ersparse.methods.base import Method, RunContext

if TYPE_CHECKING:
    import pytorch_lightning as pl


class Fixed(Method):
    """Trains every kept weight, and keeps every removed weight at zero."""

    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled", "sparse")
    sparse_by_default: ClassVar[bool] = True
    averages: ClassVar[bool] = True

    def keeps_sparsity(self) -> bool:
        return True

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask

        if run.settings.trainer.execution == "sparse":
            return []  # removed weights are not stored, so nothing has to be reset to zero
        return [FixedMask()]
