"""Iterative pruning: train, prune, rewind, repeatedly (section 3; Figure 5, Table 17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ersparse.config.schema import Settings
from ersparse.config.types import Count, In, Since
from ersparse.errors import UserError
from ersparse.methods.base import RunContext
from ersparse.methods.levels import LevelledMethod, scaled_epochs
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier

SMOKE_LEVELS = 2  # levels at scale=smoke, at most


class IterativePruning(LevelledMethod):
    """Alternates training and pruning over levels, and then trains with the last mask.

    Level t of T trains what level t - 1 left, keeps p_0 (p_T / p_0)^(t/T) of all weights, those with the largest
    scores after training, and rewinds. p_0 is the source's realised density. Without a final sparsity levels are
    cycles of training with one mask.

    Attributes:
        default_epochs: the epochs of a level, as in the paper.
        score: the score of trained weights: "magnitude", or "synflow" (Tanaka's score, once a level).
        prune: at every level ("geometric"), or at the "last" one only, which leaves the other levels the source's mask.
        final_epochs: the epochs of the training at the end; None is the data set's, "level" as many as a level has.
        rewind: resets weights to "init"ialisation, to those after "epoch" `rewind_epoch` of the first level, or keeps
            them, so that only the learning rate ("lr") restarts. The optimizer's state is always reset.
        rewind_epoch: at most the epochs of a level; 0 is initialisation.
        statistics: "reset" BatchNorm's running statistics as well, or "keep" them.
        schedule: the learning-rate schedule applies to the "final" training, with a constant learning rate in levels,
            or to "each" level as well.
    """

    default_epochs: ClassVar[int] = 30

    final_sparsity: Annotated[float, In("(0, 1)")] | None  # type: ignore[assignment]
    score: Literal["magnitude", "synflow"]
    prune: Annotated[Literal["geometric", "last"], Since("geometric")] = "geometric"
    final_epochs: Count | Literal["level"] | None
    rewind: Literal["init", "epoch", "lr"]
    rewind_epoch: Annotated[int, In("[0, inf)")]
    statistics: Literal["reset", "keep"]
    schedule: Literal["final", "each"]

    def level_count(self, settings: Settings) -> int:
        """Return the number of levels, at this scale."""
        return min(self.levels, SMOKE_LEVELS) if settings.scale.name == "smoke" else self.levels

    def epochs_of_final_training(self, settings: Settings) -> int:
        """Return the epochs of the training at the end, at this scale."""
        if self.final_epochs == "level":
            return self.level_epochs(settings)
        return scaled_epochs(self.final_epochs or settings.dataset.epochs, settings)

    def epochs(self, settings: Settings) -> int:
        return self.level_count(settings) * self.level_epochs(settings) + self.epochs_of_final_training(settings)

    def schedule_epochs(self, settings: Settings) -> int:
        final = self.epochs_of_final_training(settings)
        return min(final, self.level_epochs(settings)) if self.schedule == "each" else final

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        self.check_levels(settings, source, "has method.epochs_per_level and method.final_epochs")
        if self.rewind == "epoch" and self.rewind_epoch > self.level_epochs(settings):
            raise UserError(
                f"method.rewind_epoch={self.rewind_epoch}: must lie in [0, {self.level_epochs(settings)}], the epochs "
                "of a level"
            )

    def module(self, run: RunContext, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.iterative_pruning import IterativePruningClassifier

        s = run.settings
        return IterativePruningClassifier(
            network, s.dataset.num_classes, s.optimizer, self.epochs_of_final_training(s), eval_names,
            s.schedule_at_scale(), levels=self.level_count(s), per_level=self.level_epochs(s),
            each=self.schedule == "each",
        )  # fmt: skip

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks import FixedMask
        from ersparse.lightning.callbacks.iterative_pruning import PruneAndRewind, Rewinding
        from ersparse.sparse.pruners import trained_scores

        data = run.settings.dataset
        scores = trained_scores(self.score, data.shape)
        density = None if self.final_sparsity is None else 1 - self.final_sparsity
        rewinding = Rewinding(self.rewind, self.rewind_epoch, self.statistics == "reset")
        return [
            FixedMask(),
            PruneAndRewind(
                run.layers, run.graph, density, self.prune == "last", scores, rewinding, run.folder, run.hash,
                run.settings.sparsity.allow_collapse,
            ),
        ]  # fmt: skip
