"""Edge-popup inside an ER network: strong lottery tickets (section 3, Tables 1 and 11-15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ersparse.config.edge_popup_search import EdgePopupSearch
from ersparse.config.schema import Settings
from ersparse.config.types import Since
from ersparse.errors import UserError
from ersparse.methods.base import RunContext
from ersparse.methods.levels import LevelledMethod
from ersparse.sparse import edge_popup
from ersparse.sparse.initialization import draw_weights
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.schedules import annealed_density
from ersparse.sparse.source import Source

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn

    from ersparse.lightning.classifier import Classifier


class EdgePopup(EdgePopupSearch, LevelledMethod):
    """Trains scores of random weights that stay as they are drawn; the weights with the best scores form the ticket.

    Attributes:
        default_epochs: the epochs of a level, as in the paper.
        schedule: the schedule of the density over levels (`ersparse.sparse.schedules.annealed_density`).
        scores: "carry" scores and momentum into the next level, or "reset" both.
        weight_init: "kaiming_normal" (fan-in), or "signed_constant" with the same variance.
        scale_weights: whether the fan-in counts the source's weights only.
        multiply_by: weights are multiplied by the "ticket"; by the "scores" themselves in the paper's released code,
            which prunes nothing.
    """

    default_epochs: ClassVar[int] = 100

    schedule: Literal["geometric", "linear", "code"]
    scores: Literal["carry", "reset"]
    weight_init: Literal["kaiming_normal", "signed_constant"]
    scale_weights: bool
    multiply_by: Annotated[Literal["ticket", "scores"], Since("ticket")]

    def epochs(self, settings: Settings) -> int:
        return self.levels * self.level_epochs(settings)

    def schedule_epochs(self, settings: Settings) -> int:
        return self.level_epochs(settings) if self.lr_restart else self.epochs(settings)

    def check(self, settings: Settings, layers: list[Layer], source: Source) -> None:
        self.check_levels(settings, source, "runs for method.levels times method.epochs_per_level")
        if settings.model.init != "default":
            raise UserError(
                f"model.init={settings.model.init}: must be default with method={self.name}, which has "
                "method.weight_init and method.scale_weights"
            )
        for key, value in settings.optimizer.ham.model_dump().items():
            if value:
                raise UserError(
                    f"optimizer.ham.{key}={value}: must be 0 with method={self.name}, which trains scores, not weights"
                )
        sizes = [layer.size for layer in layers]
        counts = edge_popup.counts(layers, 1 - self.final_sparsity, sizes, self.min_keep)
        for layer, count in zip(layers, counts, strict=True):
            if count == 0:
                raise UserError(
                    f"method.final_sparsity={self.final_sparsity}: layer {layer.name} with its {layer.size} weights "
                    "would keep none; method.min_keep=1 leaves it one"
                )

    def module(self, run: RunContext, network: nn.Module, eval_names: list[str]) -> Classifier:
        from ersparse.lightning.edge_popup import EdgePopupClassifier
        from ersparse.lightning.raw_scores import RawScoreClassifier

        s = run.settings
        seed = s.seed_of("init")
        if run.init_from is None:
            scaled = zip(run.layers, run.source.densities, strict=True) if self.scale_weights else ()
            densities = {layer.name: density for layer, density in scaled}
            every = [densities.get(layer.name, 1.0) for layer in prunable_layers(network)]
            draw_weights(network, every, self.weight_init, seed)
        kind = EdgePopupClassifier if self.multiply_by == "ticket" else RawScoreClassifier
        epochs, schedule = self.level_epochs(s), s.schedule_at_scale()
        return kind(network, s.dataset.num_classes, s.optimizer, epochs, eval_names, self, seed, schedule, run.layers)

    def callbacks(self, run: RunContext) -> list[pl.Callback]:
        from ersparse.lightning.callbacks.annealing import SparsityAnnealing

        start, end = run.nominal, 1 - self.final_sparsity

        def density_of(level: int) -> float:
            return annealed_density(start, end, level, self.levels, self.schedule)

        settings = run.settings
        return [SparsityAnnealing(self.level_epochs(settings), density_of, self.scores, settings.seed_of("init"))]
