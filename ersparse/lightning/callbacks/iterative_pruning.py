"""Pruning and rewinding at the end of each level of iterative pruning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ersparse.errors import RunFailed
from ersparse.lightning.iterative_pruning import IterativePruningClassifier
from ersparse.sparse import mask
from ersparse.sparse.layers import Layer
from ersparse.sparse.reachability import ChannelOp, cut
from ersparse.sparse.schedules import annealed_density
from ersparse.sparse.scores import ScoreError, Scores, largest
from ersparse.storage import density_file

log = logging.getLogger("ersparse")

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Rewinding:
    """What a network is rewound to after pruning.

    Attributes:
        to: "init", "epoch" or "lr", as `ersparse.methods.iterative_pruning.IterativePruning.rewind`.
        epoch: epoch of the first level whose weights are restored, if `to` is "epoch".
        statistics: whether BatchNorm's running statistics are reset.
    """

    to: str
    epoch: int
    statistics: bool

    @torch.no_grad()
    def apply(self, network: nn.Module, weights: Weights) -> None:
        """Rewind `network` to `weights` in place; removed weights are zero afterwards."""
        if self.to != "lr":
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name])
        for module in network.modules():
            if isinstance(module, _BatchNorm) and self.statistics:
                module.reset_running_stats()
        mask.enforce(network)


class PruneAndRewind(pl.Callback):
    """Prunes, rewinds and clears the optimizer state at the end of the last epoch of each level.

    The masks are those of the largest scores of all layers (`ersparse.sparse.scores.largest`), at the density of
    `ersparse.sparse.schedules.annealed_density`. The level follows from the epoch alone, so a resumed run continues
    exactly. The weights at initialisation are those that the module has in `setup`, before a checkpoint is restored;
    those after epoch k are part of the checkpoint.

    Args:
        layers: prunable layers of the network.
        graph: channel graph of the network; None skips the check for layer collapse.
        density: density of the last mask, relative to the dense network; None keeps the source's mask.
        at_last: whether the last level alone prunes.
        scores: function from a trained network to the scores of its weights, on the CPU.
        rewinding: what to rewind to.
        folder: run folder, in which the densities of each level are written to levels/level01.json and so on.
        run: hash of the run.
        allow_collapse: continue after layer collapse, with a warning.
    """

    def __init__(
        self,
        layers: list[Layer],
        graph: list[ChannelOp] | None,
        density: float | None,
        at_last: bool,
        scores: Callable[[nn.Module], Scores],
        rewinding: Rewinding,
        folder: Path,
        run: str,
        allow_collapse: bool,
    ) -> None:
        self.layers, self.graph, self.density, self.scores = layers, graph, density, scores
        self.at_last = at_last
        self.rewinding, self.folder, self.run, self.allow_collapse = rewinding, folder, run, allow_collapse
        self.weights: Weights = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Attach full masks to a dense network, and copy the weights at initialisation."""
        network = _classifier(pl_module).network
        if not mask.masks_of(network):
            mask.attach(network, {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in self.layers})
        self.source_count = sum(int(m.sum()) for m in mask.masks_of(network).values())
        self.weights = _copied(network)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the level and the sparsity."""
        module = _classifier(pl_module)
        module.log("level", float(module.level_of(trainer.current_epoch)[0]))
        module.log("mask/sparsity", 1 - mask.density_of(mask.masks_of(module.network)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = _classifier(pl_module)
        level, epoch_in_level = module.level_of(trainer.current_epoch)
        if self.rewinding.to == "epoch" and (level, epoch_in_level + 1) == (1, self.rewinding.epoch):
            self.weights = _copied(module.network)
        if level <= module.levels and epoch_in_level + 1 == module.per_level:
            self._prune(trainer, module, level)
            self.rewinding.apply(module.network, {k: v.to(module.device) for k, v in self.weights.items()})
            for optimizer in trainer.optimizers:
                optimizer.state.clear()

    def _prune(self, trainer: pl.Trainer, module: IterativePruningClassifier, level: int) -> None:
        """Attach the masks of the next level, and record the densities.

        Raises:
            RunFailed: a score is not finite, or layer collapse.
        """
        before = {name: m.cpu().clone() for name, m in mask.masks_of(module.network).items()}
        try:
            scores = {name: score for name, score in self.scores(module.network).items() if name in before}
            masks = largest(scores, self._count(before, level, module.levels), before)
        except ScoreError as error:
            raise RunFailed(f"level {level}: {error}; did the training diverge?") from None
        cut_layers = cut(masks, self.layers, self.graph) if self.graph else []
        mask.attach(module.network, masks)
        if trainer.is_global_zero:
            self._record(trainer, module, level, mask.density_of(before), masks, cut_layers)
        if cut_layers:
            self._report_collapse(level, cut_layers)

    def _count(self, before: mask.Masks, level: int, levels: int) -> int:
        """Return how many weights a level keeps."""
        if self.density is None or (self.at_last and level < levels):
            return sum(int(m.sum()) for m in before.values())
        final_count = self.density * sum(layer.size for layer in self.layers)
        part = (1, 1) if self.at_last else (level, levels)
        count = round(annealed_density(self.source_count, final_count, *part, "geometric"))
        return min(sum(int(m.sum()) for m in before.values()), count)

    def _record(
        self,
        trainer: pl.Trainer,
        module: IterativePruningClassifier,
        level: int,
        density_before: float,
        masks: mask.Masks,
        cut_layers: list[str],
    ) -> None:
        """Write the density file of a level, with the metrics of its last epoch."""
        metrics = {name: float(trainer.callback_metrics[name]) for name in ("test/acc", "test/loss", "train/loss")}
        trained = {"sparsity": 1 - density_before, "epochs": module.per_level, **metrics}
        made = {"run": self.run, "level": level, "of": module.levels}
        density_file.write(level_file(self.folder, level), masks, made, trained=trained, cut=cut_layers)
        log.info(
            f"level {level} of {module.levels}: trained at sparsity {1 - density_before:.4f} to test accuracy "
            f"{metrics['test/acc']:.4f}, pruned to {1 - mask.density_of(masks):.4f}"
        )

    def _report_collapse(self, level: int, cut_layers: list[str]) -> None:
        line = f"level {level}: layer collapse: no path from input to output remains (cut at {', '.join(cut_layers)})"
        if not self.allow_collapse:
            raise RunFailed(f"{line}; sparsity.allow_collapse=true continues all the same")
        log.warning(line)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights if self.rewinding.to == "epoch" else {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights = state_dict["weights"] or self.weights


def level_file(run: Path, level: int) -> Path:
    """Return the path of a level's density file in the run folder `run`; its masks lie beside it."""
    return run / "levels" / f"level{level:02}.json"


def _copied(network: nn.Module) -> Weights:
    return {name: parameter.detach().cpu().clone() for name, parameter in network.named_parameters()}


def _classifier(module: pl.LightningModule) -> IterativePruningClassifier:
    assert isinstance(module, IterativePruningClassifier)
    return module
