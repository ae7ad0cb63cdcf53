"""At the end of each level: score what was trained, prune, rewind, and leave a file that says so."""

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
    """Where a network goes back to; `ersparse.methods.iterative_pruning` says what each key means."""

    to: str
    epoch: int
    statistics: bool

    @torch.no_grad()
    def apply(self, network: nn.Module, weights: Weights) -> None:
        """In place; what masks remove is zero afterwards."""
        if self.to != "lr":
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name])
        for module in network.modules():
            if isinstance(module, _BatchNorm) and self.statistics:
                module.reset_running_stats()
        mask.enforce(network)


class PruneAndRewind(pl.Callback):
    """Which level an epoch belongs to follows from its number, so that a resume is exact.

    The weights of initialisation are those that the module has before anything is restored; those after epoch k go
    into the checkpoint.

    Args:
        layers, steps: of the network.
        density: of the last mask.
        scores: of a trained network on the CPU.
        rewinding: where to.
        folder: of the run, which gets levels/level01.json and so on.
        run: its hash.
        allow_collapse: go on where nothing flows any more.
    """

    def __init__(
        self,
        layers: list[Layer],
        steps: list[ChannelOp] | None,
        density: float,
        scores: Callable[[nn.Module], Scores],
        rewinding: Rewinding,
        folder: Path,
        run: str,
        allow_collapse: bool,
    ) -> None:
        self.layers, self.steps, self.density, self.scores = layers, steps, density, scores
        self.rewinding, self.folder, self.run, self.allow_collapse = rewinding, folder / "levels", run, allow_collapse
        self.weights: Weights = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        network = _classifier(pl_module).network
        if not mask.masks_of(network):
            mask.attach(network, {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in self.layers})
        self.kept = sum(int(m.sum()) for m in mask.masks_of(network).values())
        self.weights = _copied(network)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = _classifier(pl_module)
        module.log("level", float(module.level_of(trainer.current_epoch)[0]))
        module.log("mask/sparsity", 1 - mask.density_of(mask.masks_of(module.network)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = _classifier(pl_module)
        level, into = module.level_of(trainer.current_epoch)
        if self.rewinding.to == "epoch" and (level, into + 1) == (1, self.rewinding.epoch):
            self.weights = _copied(module.network)
        if level <= module.levels and into + 1 == module.per_level:
            self._prune(trainer, module, level)
            self.rewinding.apply(module.network, {k: v.to(module.device) for k, v in self.weights.items()})
            for optimizer in trainer.optimizers:
                optimizer.state.clear()

    def _prune(self, trainer: pl.Trainer, module: IterativePruningClassifier, level: int) -> None:
        before = {name: m.cpu().clone() for name, m in mask.masks_of(module.network).items()}
        size = sum(layer.size for layer in self.layers)
        there = sum(int(m.sum()) for m in before.values())
        count = min(there, round(annealed_density(self.kept, self.density * size, level, module.levels, "geometric")))
        try:
            masks = largest(self.scores(module.network), count, before)
        except ScoreError as error:
            raise RunFailed(f"level {level}: {error}; did the training diverge?") from None
        where = cut(masks, self.layers, self.steps) if self.steps else []
        mask.attach(module.network, masks)
        if trainer.is_global_zero:
            self._leave(trainer, module, level, mask.density_of(before), masks, where)
        if where:
            self._collapsed(level, where)

    def _leave(
        self,
        trainer: pl.Trainer,
        module: IterativePruningClassifier,
        level: int,
        before: float,
        masks: mask.Masks,
        where: list[str],
    ) -> None:
        """A file of densities, with what the level came to."""
        figures = {name: float(trainer.callback_metrics[name]) for name in ("test/acc", "test/loss", "train/loss")}
        trained = {"sparsity": 1 - before, "epochs": module.per_level, **figures}
        made = {"run": self.run, "level": level, "of": module.levels}
        density_file.write(level_file(self.folder.parent, level), masks, made, trained=trained, cut=where)
        log.info(
            f"level {level} of {module.levels}: trained at sparsity {1 - before:.4f} to test accuracy "
            f"{figures['test/acc']:.4f}, pruned to {1 - mask.density_of(masks):.4f}"
        )

    def _collapsed(self, level: int, where: list[str]) -> None:
        line = f"level {level}: layer collapse: no path from input to output remains (cut at {', '.join(where)})"
        if not self.allow_collapse:
            raise RunFailed(f"{line}; sparsity.allow_collapse=true continues all the same")
        log.warning(line)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights if self.rewinding.to == "epoch" else {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights = state_dict["weights"] or self.weights


def level_file(run: Path, level: int) -> Path:
    """The densities that a run had after a level; its masks lie beside it."""
    return run / "levels" / f"level{level:02}.json"


def _copied(network: nn.Module) -> Weights:
    return {name: parameter.detach().cpu().clone() for name, parameter in network.named_parameters()}


def _classifier(module: pl.LightningModule) -> IterativePruningClassifier:
    assert isinstance(module, IterativePruningClassifier)
    return module
