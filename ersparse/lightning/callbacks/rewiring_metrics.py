"""What rewiring did: per update and layer in a file of its own, per epoch among the run's figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ersparse.distributed.collectives import any_over_ranks
from ersparse.lightning.callbacks.masks import network_of
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.sparse import flow_repair
from ersparse.sparse.layers import Layer, prunable_modules
from ersparse.sparse.mask import Masks, density_of, masks_of
from ersparse.sparse.reachability import ChannelOp, effective_density
from ersparse.sparse.rewiring import Change
from ersparse.storage.atomic import write_text

COLUMNS = (
    "step", "layer", "nonzero", "removed", "grown", "overlap", "explored", "no_input", "no_output", "in_min",
    "in_median", "in_max", "out_min", "out_median", "out_max",
)  # fmt: skip


class RewiringMetrics(pl.Callback):
    """Keeps the source's masks and where weights were ever active, both in the checkpoint.

    Figures of an epoch, under `rewire/`: `updates` and `weights` (grown) so far; `overlap`, the share of the source's
    weights that are active; `explored`, the share of all weights that were ever active (the in-time
    over-parametrisation rate of Liu et al. 2021b); `sparsity` and `effective` (sparsity of what lies on paths) as they
    are; `no_input`, channels without a kept weight into them; `silent`, inputs of layers that were zero for every
    image that was evaluated, NaN with sparse execution, which calls no layer.
    """

    def __init__(self, rewiring: Rewiring, layers: list[Layer], steps: list[ChannelOp] | None, path: Path) -> None:
        rewiring.listeners.append(self.updated)
        self.layers, self.steps, self.path = {layer.name: layer for layer in layers}, steps, path
        self.source: Masks = {}
        self.ever: Masks = {}
        self.rows: list[list[Any]] = []
        self.updates, self.weights = 0, 0
        self.fired: dict[str, Tensor] = {}
        self.hooks: list[RemovableHandle] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        masks = masks_of(network_of(pl_module))
        if not self.source:
            self.source = {name: mask.clone() for name, mask in masks.items()}
            self.ever = {name: mask.clone() for name, mask in masks.items()}
            self._note(0, masks, {})
        for held in (self.source, self.ever):
            for name, mask in masks.items():
                held[name] = held[name].to(mask.device)

    def updated(self, step: int, network: nn.Module, changes: Mapping[str, Change]) -> None:
        """After an update."""
        for name, change in changes.items():
            self.ever[name] |= change.grown
        self.updates += 1
        self.weights += sum(int(change.grown.sum()) for change in changes.values())
        self._note(step, masks_of(network), changes)

    def _note(self, step: int, masks: Masks, changes: Mapping[str, Change]) -> None:
        for name, mask in masks.items():
            into, out = flow_repair.degrees(mask, self.layers[name])
            removed, grown = (int(changes[name].removed.sum()), int(changes[name].grown.sum())) if changes else (0, 0)
            self.rows.append(
                [
                    step, name, int(mask.sum()), removed, grown,
                    _share(mask & self.source[name], self.source[name]), float(self.ever[name].float().mean()),
                    int((into == 0).sum()), int((out == 0).sum()), *_spread(into), *_spread(out),
                ]
            )  # fmt: skip

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.fired = {}
        for name, module in prunable_modules(network_of(pl_module)).items():
            self.hooks.append(module.register_forward_pre_hook(self._watch(name)))

    def _watch(self, name: str) -> Any:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            fires = (x != 0).any(0) if x.dim() == 2 else (x != 0).flatten(2).any(2).any(0)
            self.fired[name] = self.fired[name] | fires if name in self.fired else fires

        return see

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        masks = masks_of(network_of(pl_module))
        on_cpu = {name: mask.cpu() for name, mask in masks.items()}
        figures = {
            "updates": float(self.updates),
            "weights": float(self.weights),
            "overlap": _share_of_all({name: mask & self.source[name] for name, mask in masks.items()}, self.source),
            "explored": density_of(self.ever),
            "sparsity": 1 - density_of(masks),
            "no_input": float(sum(flow_repair.zero_degrees(on_cpu[name], self.layers[name])[0] for name in masks)),
            "silent": self._silent(),
        }
        if self.steps:
            figures["effective"] = 1 - effective_density(on_cpu, list(self.layers.values()), self.steps)
        for name, value in figures.items():
            pl_module.log(f"rewire/{name}", torch.tensor(value, dtype=torch.float64))

    def _silent(self) -> float:
        counts = [int((~any_over_ranks(fired)).sum()) for fired in self.fired.values()]
        return float(sum(counts)) if counts else math.nan

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            lines = [",".join(COLUMNS), *(",".join(_shown(value) for value in row) for row in self.rows)]
            write_text(self.path, "\n".join(lines) + "\n")

    def state_dict(self) -> dict[str, Any]:
        kept = ("source", "ever", "rows", "updates", "weights")
        return {key: getattr(self, key) for key in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key, value in state_dict.items():
            setattr(self, key, value)


def _share(part: Tensor, whole: Tensor) -> float:
    return int(part.sum()) / max(1, int(whole.sum()))


def _share_of_all(part: Masks, whole: Masks) -> float:
    return sum(int(mask.sum()) for mask in part.values()) / max(1, sum(int(mask.sum()) for mask in whole.values()))


def _spread(degrees: np.ndarray) -> tuple[int, float, int]:
    return int(degrees.min()), float(np.median(degrees)), int(degrees.max())


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
