"""Metrics of rewiring: of each update and layer in rewiring.csv, of each epoch in metrics.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ersparse.distributed.collectives import any_over_ranks
from ersparse.lightning.callbacks.masks import network_of
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.sparse.degrees import zero_degrees
from ersparse.sparse.layers import Layer, Prunable, prunable_weights
from ersparse.sparse.mask import Masks, density_of, masks_of
from ersparse.sparse.reachability import ChannelOp, effective_density
from ersparse.sparse.rewiring import Change
from ersparse.sparse.rewiring_figures import LayerFigures, layer_figures
from ersparse.sparse.transfer import counts, to_host
from ersparse.storage.atomic import write_text

COLUMNS = (
    "step", "layer", "nonzero", "removed", "grown", "overlap", "explored", "no_input", "no_output", "in_min",
    "in_median", "in_max", "out_min", "out_median", "out_max",
)  # fmt: skip


class RewiringMetrics(pl.Callback):
    """Records one row for each layer after every update of `rewiring`, and logs metrics after every evaluation.

    Metrics of an epoch, with prefix `rewire/`:

    * `updates`, `weights`: number of updates, and of grown weights, so far.
    * `overlap`: fraction of the source's weights that are active.
    * `explored`: fraction of all weights that were ever active (in-time over-parametrisation, Liu et al. 2021b).
    * `sparsity`, `effective`: realised and effective sparsity (`ersparse.sparse.reachability.effective_density`).
    * `no_input`: number of channels with in-degree 0 (`ersparse.sparse.degrees.zero_degrees`).
    * `silent`: number of input channels of convolutions and linear layers that were zero for every evaluated image; NaN
      with sparse execution, which calls no layer.

    The source's masks, the weights that were ever active, and the rows are part of the checkpoint.

    Args:
        rewiring: the callback that rewires.
        layers: prunable layers of the network.
        graph: channel graph of the network; without it, `effective` is not logged.
        path: path of rewiring.csv, which rank 0 writes at the end of every training epoch.
    """

    def __init__(self, rewiring: Rewiring, layers: list[Layer], graph: list[ChannelOp] | None, path: Path) -> None:
        rewiring.listeners.append(self.after_update)
        self.layers, self.graph, self.path = {layer.name: layer for layer in layers}, graph, path
        self.source: Masks = {}
        self.ever: Masks = {}
        self.rows: list[list[Any]] = []
        self.unread: list[tuple[int, Tensor]] = []  # step, and the figures of all layers on the device
        self.updates, self.weights = 0, 0
        self.active: dict[str, Tensor] = {}
        self.hooks: list[RemovableHandle] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the masks of the source network, unless a checkpoint restored them."""
        masks = masks_of(network_of(pl_module))
        if not self.source:
            self.source = {name: mask.clone() for name, mask in masks.items()}
            self.ever = {name: mask.clone() for name, mask in masks.items()}
            self._append(0, masks, {})
        for held in (self.source, self.ever):
            for name, mask in masks.items():
                held[name] = held[name].to(mask.device)

    def after_update(self, step: int, network: nn.Module, changes: Mapping[str, Change]) -> None:
        """Record the changes of an update."""
        for name, change in changes.items():
            self.ever[name] |= change.grown
        self.updates += 1
        self._append(step, masks_of(network), changes)

    def _append(self, step: int, masks: Masks, changes: Mapping[str, Change]) -> None:
        """Compute the figures of all layers. They are read at the end of the epoch, so that training does not wait."""
        figures = [
            layer_figures(mask, self.layers[name], self.source[name], self.ever[name], changes.get(name)).stacked()
            for name, mask in masks.items()
        ]
        self.unread.append((step, torch.stack(figures)))

    def _read(self) -> None:
        """Make rows of the figures that have not been read yet."""
        if not self.unread:
            return
        source = counts(self.source)
        tables = torch.stack([figures for _, figures in self.unread]).tolist()
        for (step, _), table in zip(self.unread, tables, strict=True):
            found = [LayerFigures(*figures) for figures in table]
            self.rows += [_row(step, name, f, source[name]) for name, f in zip(self.source, found, strict=True)]
            self.weights += sum(int(f.grown) for f in found)
        self.unread = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Register the hooks that find inputs which are zero for every image."""
        self.active = {}
        for name, held in prunable_weights(network_of(pl_module)).items():
            if isinstance(held.module, Prunable):
                self.hooks.append(held.module.register_forward_pre_hook(self._activity_hook(name)))

    def _activity_hook(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach()
            active = (x != 0).any(0) if x.dim() == 2 else (x != 0).flatten(2).any(2).any(0)
            self.active[name] = self.active[name] | active if name in self.active else active

        return hook

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics of the epoch."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        self._read()
        masks = masks_of(network_of(pl_module))
        on_cpu = to_host(masks)
        metrics = {
            "updates": float(self.updates),
            "weights": float(self.weights),
            "overlap": _global_fraction({name: mask & self.source[name] for name, mask in masks.items()}, self.source),
            "explored": density_of(self.ever),
            "sparsity": 1 - density_of(masks),
            "no_input": float(sum(zero_degrees(on_cpu[name], self.layers[name])[0] for name in masks)),
            "silent": self._silent_inputs(),
        }
        if self.graph:
            metrics["effective"] = 1 - effective_density(on_cpu, list(self.layers.values()), self.graph)
        for name, value in metrics.items():
            pl_module.log(f"rewire/{name}", torch.tensor(value, dtype=torch.float64))

    def _silent_inputs(self) -> float:
        silent = {name: ~any_over_ranks(active) for name, active in self.active.items()}
        return float(sum(counts(silent).values())) if silent else math.nan

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._read()
        if trainer.is_global_zero:
            lines = [",".join(COLUMNS), *(",".join(_formatted(value) for value in row) for row in self.rows)]
            write_text(self.path, "\n".join(lines) + "\n")

    def state_dict(self) -> dict[str, Any]:
        self._read()
        kept = ("source", "ever", "rows", "updates", "weights")
        return {key: getattr(self, key) for key in kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key, value in state_dict.items():
            setattr(self, key, value)


def _row(step: int, name: str, figures: LayerFigures, source: int) -> list[Any]:
    """Return a row of rewiring.csv from figures that have been read; `source` is the layer's count at the start."""
    f = figures
    return [
        step, name, *map(int, (f.nonzero, f.removed, f.grown)), int(f.overlap) / max(1, source), float(f.explored),
        *map(int, (f.no_input, f.no_output)),
        int(f.in_min), float(f.in_median), int(f.in_max), int(f.out_min), float(f.out_median), int(f.out_max),
    ]  # fmt: skip


def _global_fraction(part: Masks, whole: Masks) -> float:
    return sum(counts(part).values()) / max(1, sum(counts(whole).values()))


def _formatted(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
