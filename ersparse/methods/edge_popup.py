"""Edge-popup inside an ER network: strong lottery tickets (section 3, Tables 1 and 11-15)."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Literal

from ersparse.config.schema import Count, In, Settings, Since
from ersparse.errors import UserError
from ersparse.methods.base import Method
from ersparse.sparse import edge_popup
from ersparse.sparse.initialization import draw_weights
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier
    from ersparse.lightning.edge_popup import Search
    from ersparse.runs.plan import Plan

EPOCHS_PER_LEVEL = 100  # the paper's; the data set's own where that is shorter


class EdgePopup(Method):
    """Random weights stay as they are; scores are trained, and the best weights by score make the ticket.

    Attributes:
        final_sparsity: of the ticket, relative to the dense network.
        levels: steps in which the sparsity rises from the source's.
        epochs_per_level: None is 100, or the data set's epochs where these are fewer.
        schedule: of the density over levels (`ersparse.sparse.edge_popup.annealed`).
        lr_restart: each level has the whole learning-rate schedule.
        scores: "carry" them, and the momentum, into the next level, or "reset" both.
        weight_init: "kaiming_normal" (fan-in), or "signed_constant" of the same variance.
        scale_weights: the fan-in counts the source's weights only.
        score_init: "kaiming_uniform" or "constant".
        affine: train scale and shift of BatchNorm as well.
        signed: rank by the score itself, not by its magnitude.
        scope: the same fraction of each "layer", or the best of all, "global".
        min_keep: weights that each layer keeps at least.
        multiply_by: weights are multiplied by the "ticket"; by the "scores" themselves in the paper's released code,
            which prunes nothing.
    """

    final_sparsity: Annotated[float, In("(0, 1)")]
    levels: Count
    epochs_per_level: Count | None
    schedule: Literal["geometric", "linear", "code"]
    lr_restart: bool
    scores: Literal["carry", "reset"]
    weight_init: Literal["kaiming_normal", "signed_constant"]
    scale_weights: bool
    score_init: Literal["kaiming_uniform", "constant"]
    affine: bool
    signed: bool
    scope: Literal["layer", "global"]
    min_keep: Annotated[int, In("[0, inf)")]
    multiply_by: Annotated[Literal["ticket", "scores"], Since("ticket")]

    def per_level(self, settings: Settings) -> int:
        """Epochs of each level, at this scale."""
        if settings.scale.name == "smoke":
            return 1
        epochs = self.epochs_per_level or min(EPOCHS_PER_LEVEL, settings.dataset.epochs)
        return max(1, round(epochs * settings.scale.epochs))

    def epochs(self, settings: Settings) -> int:
        return self.levels * self.per_level(settings)

    def check(self, settings: Settings, layers: list[Layer], source: Source | None) -> None:
        if settings.scale.name != "smoke" and settings.trainer.max_epochs != settings.dataset.epochs:
            raise UserError(
                f"trainer.max_epochs={settings.trainer.max_epochs}: must not be set with method={self.name}, "
                "which runs for method.levels times method.epochs_per_level"
            )
        if settings.model.init != "default":
            raise UserError(
                f"model.init={settings.model.init}: must be default with method={self.name}, which has "
                "method.weight_init and method.scale_weights"
            )
        start, end = source.nominal if source else 1.0, 1 - self.final_sparsity
        if end > start:
            raise UserError(
                f"method.final_sparsity={self.final_sparsity}: must be at least the source's sparsity {1 - start:g}"
            )
        sizes = [layer.size for layer in layers]
        for layer, count in zip(layers, edge_popup.counts(layers, end, sizes, self.min_keep), strict=True):
            if count == 0:
                raise UserError(
                    f"method.final_sparsity={self.final_sparsity}: layer {layer.name} with its {layer.size} weights "
                    "would keep none; method.min_keep=1 leaves it one"
                )

    def module(self, plan: Plan, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.edge_popup import EdgePopupClassifier
        from ersparse.lightning.raw_scores import RawScoreClassifier

        s = plan.settings
        seed = s.seed_of("init")
        if plan.init_from is None:
            densities = plan.source.densities if plan.source and self.scale_weights else [1.0] * len(plan.layers)
            draw_weights(network, densities, self.weight_init, seed)
        epochs = self.per_level(s)
        kind = EdgePopupClassifier if self.multiply_by == "ticket" else RawScoreClassifier
        return kind(network, s.dataset.num_classes, s.optimizer, epochs, eval_names, self.search(), seed)

    def search(self) -> Search:
        """The part of the settings that the LightningModule needs."""
        from ersparse.lightning.edge_popup import Search

        return Search(**{field.name: getattr(self, field.name) for field in fields(Search)})

    def callbacks(self, plan: Plan) -> list[pl.Callback]:
        from ersparse.lightning.callbacks.annealing import SparsityAnnealing

        start, end = plan.nominal, 1 - self.final_sparsity
        return [
            SparsityAnnealing(
                self.per_level(plan.settings),
                lambda level: edge_popup.annealed(start, end, level, self.levels, self.schedule),
                self.scores,
                plan.settings.seed_of("init"),
            )
        ]
