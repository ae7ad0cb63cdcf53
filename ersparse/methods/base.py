"""What a method may decide. A new one is a subclass in a file of its own, with its keys as fields."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ersparse.config.schema import Settings, TargetedSettings, build, locate
from ersparse.errors import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier
    from ersparse.runs.plan import Plan
    from ersparse.sparse.layers import Layer
    from ersparse.sparse.source import Source


class Method(TargetedSettings):
    """Settings of a method, and what it adds to a training run.

    Attributes:
        executions: what `trainer.execution` may be.
        sparse_at_will: whether sparse execution records all that masked execution does, so that `auto` may take it.
        trains: False stops after the source network is recorded; no data is read, and Lightning is not imported.
    """

    trains: ClassVar[bool] = True
    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled")
    sparse_at_will: ClassVar[bool] = False

    def epochs(self, settings: Settings) -> int:
        """The length of a run."""
        return settings.epochs()

    def check(self, settings: Settings, layers: list[Layer], source: Source | None) -> None:
        """What the method needs of the rest.

        Raises:
            UserError: it is not so.
        """

    def module(self, plan: Plan, network: nn.Module, eval_names: list[str]) -> Classifier:
        """What is trained."""
        from ersparse.lightning.classifier import Classifier

        s = plan.settings
        if s.trainer.execution == "sparse":
            from ersparse.lightning.sparse_classifier import SparseClassifier as Classifier  # type: ignore[assignment]
        return Classifier(network, s.dataset.num_classes, s.optimizer, plan.epochs, eval_names)

    def callbacks(self, plan: Plan) -> list[pl.Callback]:
        """Callbacks that act on the masks, after the source network has been drawn and repaired."""
        return []


class Standalone(Method):
    """A method that concerns no network and no data: it checks, names and fills a run folder by itself."""

    trains: ClassVar[bool] = False

    def run(self, settings: Settings) -> Path:
        """Does the work, or what is left of it, and returns the run folder."""
        raise NotImplementedError


def method_of(settings: Settings) -> Method:
    """The method that the settings name, its keys checked.

    Raises:
        UserError: a key is unknown or out of range, or `_target_` names no method.
    """
    target = str(settings.method.get("_target_"))
    kind = locate(target)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UserError(f"method._target_={target}: must name a subclass of ersparse.methods.base.Method")
    return build(kind, settings.method, "method.")
