"""Settings and checks that methods with levels (edge-popup, iterative pruning) share."""

from __future__ import annotations

from typing import Annotated, ClassVar

from ersparse.config.schema import Settings
from ersparse.config.types import Count, In
from ersparse.errors import UserError
from ersparse.methods.base import Method
from ersparse.sparse.source import Source


class LevelledMethod(Method):
    """A method that reaches its final sparsity in levels of equal length.

    Attributes:
        default_epochs: epochs of a level if `epochs_per_level` is None; the data set's if these are fewer.
        final_sparsity: the sparsity at the end, relative to the dense network.
        levels: number of levels.
        epochs_per_level: epochs of a level.
    """

    default_epochs: ClassVar[int]

    final_sparsity: Annotated[float, In("(0, 1)")]
    levels: Count
    epochs_per_level: Count | None

    def level_epochs(self, settings: Settings) -> int:
        """Return the epochs of each level, at this scale."""
        return scaled_epochs(self.epochs_per_level or min(self.default_epochs, settings.dataset.epochs), settings)

    def check_levels(self, settings: Settings, source: Source, length_keys: str) -> None:
        """Check the length of the run and the final sparsity.

        Args:
            settings: the settings of the run.
            source: the source network.
            length_keys: the keys that decide the length of the run, as the message names them.

        Raises:
            UserError: `trainer.max_epochs` is set, or the final sparsity is below the source's.
        """
        if settings.scale.name != "smoke" and settings.trainer.max_epochs != settings.dataset.epochs:
            raise UserError(
                f"trainer.max_epochs={settings.trainer.max_epochs}: must not be set with method={self.name}, "
                f"which {length_keys}"
            )
        if self.final_sparsity is not None:
            check_final_sparsity(self.final_sparsity, source)


def check_final_sparsity(final_sparsity: float, source: Source) -> None:
    """Check that pruning does not have to add weights.

    Raises:
        UserError: `final_sparsity` is below the nominal sparsity of `source`.
    """
    if 1 - final_sparsity > source.nominal:
        raise UserError(
            f"method.final_sparsity={final_sparsity}: must be at least the source's sparsity {1 - source.nominal:g}"
        )


def check_pruning(start: float, end: float, scope: str, source: Source) -> None:
    """Check when and where weights are pruned.

    Raises:
        UserError: pruning ends before it starts, or layers that differ in density would be pruned to the same one.
    """
    if start >= end:
        raise UserError(f"method.prune_from={start}: must be less than method.prune_until={end}")
    if scope == "layer" and source.nominal < 1:
        raise UserError("method.prune_scope=layer: must be global unless sparsity=dense, as layers differ in density")


def scaled_epochs(epochs: int, settings: Settings) -> int:
    """Return `epochs` at the scale of the run: one at smoke scale, and never less than one."""
    return 1 if settings.scale.name == "smoke" else max(1, round(epochs * settings.scale.epochs))
