"""Training with the mask fixed: weak lottery tickets (section 3, Tables 2, 3, 7-10, 16, 18, 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ersparse.methods.base import Method

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from ersparse.runs.plan import Plan


class Fixed(Method):
    """Every kept weight is trained; every removed one stays zero."""

    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled", "sparse")
    sparse_at_will: ClassVar[bool] = True

    def callbacks(self, plan: Plan) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask

        if plan.settings.trainer.execution == "sparse":
            return []  # removed weights are not there
        return [FixedMask()]
