"""The interface of a method: what happens to a source network once it has been drawn.

A new method is a subclass of `Method` in a file of its own, with its keys as fields, and one YAML file that names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ersparse.config.groups import TargetedSettings, build
from ersparse.config.options import check_name
from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.locate import locate
from ersparse.sparse.layers import Layer
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier


@dataclass(frozen=True)
class RunContext:
    """What a method knows about the run that it is part of.

    Attributes:
        settings: the settings of the run.
        hash: the hash of its identity.
        folder: its run folder.
        layers: the prunable layers of the network.
        graph: the channel graph of the network; None if it cannot be traced.
        unpruned: sizes of the matrices of the network that stay dense, by parameter name.
        source: the source network.
        init_from: weights (and masks) to start from; None if they are drawn.
        epochs: the length of the run.
    """

    settings: Settings
    hash: str
    folder: Path
    layers: list[Layer]
    graph: list[ChannelOp] | None
    unpruned: dict[str, int]
    source: Source
    init_from: dict[str, Tensor] | None
    epochs: int

    @property
    def nominal(self) -> float:
        """The global density asked for."""
        return self.source.nominal


class Method(TargetedSettings):
    """The keys of a method, and what it adds to a training run.

    Attributes:
        executions: the values that `trainer.execution` may have.
        sparse_by_default: whether `trainer.execution=auto` may choose sparse execution, because it records everything
            that masked execution does.
        averages: whether `trainer.ema` and `trainer.swa` may average its weights.
        trains: False ends the run once the source network is recorded; no data is read, and Lightning is not imported.
    """

    trains: ClassVar[bool] = True
    executions: ClassVar[tuple[str, ...]] = ("auto", "masked", "compiled", "graphed")
    sparse_by_default: ClassVar[bool] = False
    averages: ClassVar[bool] = False

    def keeps_sparsity(self) -> bool:
        """Return whether all epochs have the same sparsity, so that the best of them can be chosen."""
        return False

    def epochs(self, settings: Settings) -> int:
        """Return the number of epochs of a run."""
        return settings.epochs()

    def schedule_epochs(self, settings: Settings) -> int:
        """Return the epochs of the shortest training that the learning-rate schedule spans."""
        return self.epochs(settings)

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        """Check the settings of the whole run against what the method needs.

        Raises:
            UserError: the method cannot run with these settings.
        """

    def module(self, run: RunContext, network: nn.Module, eval_names: list[str]) -> Classifier:
        """Return the LightningModule that is trained.

        Args:
            run: the run.
            network: the network with its first weights, on the CPU; masks are attached later.
            eval_names: names of the evaluation dataloaders, in their order.
        """
        from ersparse.lightning.classifier import Classifier

        s = run.settings
        if s.trainer.execution == "sparse":
            from ersparse.lightning.sparse_classifier import SparseClassifier as Classifier  # type: ignore[assignment]
        return Classifier(network, s.dataset.num_classes, s.optimizer, run.epochs, eval_names, s.schedule_at_scale())

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        """Return the callbacks that act on the masks after the source network has been drawn and repaired."""
        return []


class Standalone(Method):
    """A method without network or data, which checks, names and fills a run folder by itself."""

    trains: ClassVar[bool] = False

    def run(self, settings: Settings) -> Path:
        """Do the work, or what is left of it, and return the run folder."""
        raise NotImplementedError


def method_of(settings: Settings) -> Method:
    """Return the method that the settings name, with its keys checked.

    Raises:
        UserError: a key is unknown or out of range, or `_target_` names no method, or has the name of another one.
    """
    target = str(settings.method.get("_target_"))
    kind = locate(target)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UserError(f"method._target_={target}: must name a subclass of ersparse.methods.base.Method")
    check_name("method", str(settings.method.get("name")), target)
    return build(kind, settings.method, "method.")
