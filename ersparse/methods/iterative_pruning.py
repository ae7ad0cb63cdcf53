"""Iterative pruning: train, prune, rewind, again and again (section 3; Figure 5, Table 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from ersparse.config.schema import Count, In, Settings
from ersparse.errors import UserError
from ersparse.methods.base import Method
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier
    from ersparse.runs.plan import Plan

EPOCHS_PER_LEVEL = 30  # the paper's
SMOKE = 2  # levels at scale=smoke, at most


class IterativePruning(Method):
    """Levels of training and pruning, and then a final training with the last mask.

    Level t of T trains what level t - 1 left, keeps p_0 (p_T / p_0)^(t/T) of all weights, those with the largest
    scores after training, and rewinds. p_0 is the source's realised density.

    Attributes:
        score: of trained weights: their "magnitude", or "synflow" (Tanaka's score, once a level).
        final_sparsity: of the last mask, relative to the dense network.
        levels: T.
        epochs_per_level: None is 30, or the data set's epochs where these are fewer.
        final_epochs: of the training at the end; None is the data set's.
        rewind: weights go back to "init"ialisation, to those after "epoch" `rewind_epoch` of the first level, or stay,
            so that only the learning rate ("lr") starts anew. The optimizer's state always does.
        rewind_epoch: at most the epochs of a level; 0 is initialisation.
        statistics: BatchNorm's running statistics are "reset" as well, or kept ("keep").
        schedule: the optimizer's milestones hold for the "final" training, lr being constant in levels, or for "each".
    """

    score: Literal["magnitude", "synflow"]
    final_sparsity: Annotated[float, In("(0, 1)")]
    levels: Count
    epochs_per_level: Count | None
    final_epochs: Count | None
    rewind: Literal["init", "epoch", "lr"]
    rewind_epoch: Annotated[int, In("[0, inf)")]
    statistics: Literal["reset", "keep"]
    schedule: Literal["final", "each"]

    def count(self, settings: Settings) -> int:
        """Levels, at this scale."""
        return min(self.levels, SMOKE) if settings.scale.name == "smoke" else self.levels

    def per_level(self, settings: Settings) -> int:
        """Epochs of each level, at this scale."""
        return _scaled(self.epochs_per_level or min(EPOCHS_PER_LEVEL, settings.dataset.epochs), settings)

    def final(self, settings: Settings) -> int:
        """Epochs of the final training, at this scale."""
        return _scaled(self.final_epochs or settings.dataset.epochs, settings)

    def epochs(self, settings: Settings) -> int:
        return self.count(settings) * self.per_level(settings) + self.final(settings)

    def check(self, settings: Settings, layers: list[Layer], source: Source | None) -> None:
        if settings.scale.name != "smoke" and settings.trainer.max_epochs != settings.dataset.epochs:
            raise UserError(
                f"trainer.max_epochs={settings.trainer.max_epochs}: must not be set with method={self.name}, "
                "which has method.epochs_per_level and method.final_epochs"
            )
        start = source.nominal if source else 1.0
        if 1 - self.final_sparsity > start:
            raise UserError(
                f"method.final_sparsity={self.final_sparsity}: must be at least the source's sparsity {1 - start:g}"
            )
        if self.rewind == "epoch" and self.rewind_epoch > self.per_level(settings):
            raise UserError(
                f"method.rewind_epoch={self.rewind_epoch}: must lie in [0, {self.per_level(settings)}], the epochs of "
                "a level"
            )

    def module(self, plan: Plan, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.iterative_pruning import IterativePruningClassifier

        s = plan.settings
        return IterativePruningClassifier(
            network, s.dataset.num_classes, s.optimizer, self.final(s), eval_names,
            levels=self.count(s), per_level=self.per_level(s), each=self.schedule == "each",
        )  # fmt: skip

    def callbacks(self, plan: Plan) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask
        from ersparse.lightning.callbacks.iterative_pruning import PruneAndRewind, Rewinding
        from ersparse.sparse.pruners import trained_scores

        s = plan.settings
        shape = (s.dataset.channels, s.dataset.image_size, s.dataset.image_size)
        rewinding = Rewinding(self.rewind, self.rewind_epoch, self.statistics == "reset")
        return [
            FixedMask(),
            PruneAndRewind(
                plan.layers, plan.steps, 1 - self.final_sparsity, trained_scores(self.score, shape), rewinding,
                plan.folder, plan.hash, s.sparsity.allow_collapse,
            ),
        ]  # fmt: skip


def _scaled(epochs: int, settings: Settings) -> int:
    return 1 if settings.scale.name == "smoke" else max(1, round(epochs * settings.scale.epochs))
