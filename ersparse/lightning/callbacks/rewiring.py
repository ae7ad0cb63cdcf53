"""Rewiring while a network trains: every so many steps some weights go and as many come."""

from __future__ import annotations

import logging
import math
from collections.abc import MutableMapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ersparse.config.rewiring_rules import RewiringRules
from ersparse.lightning.callbacks.masks import network_of
from ersparse.sparse import rewiring, schedules
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks, attach, density_of, masks_of
from ersparse.sparse.rng import generator

log = logging.getLogger(__name__)

States = MutableMapping[Tensor, Any]  # what an optimizer remembers of each parameter


class Rewiring(pl.Callback):
    """Decides when; `ersparse.sparse.rewiring` decides which weights.

    Everything follows from the step and the state of the network, so a resume is exact. Dense gradients are those of
    the backward pass of that very step, as the optimizer sees them: accumulated, and averaged over ranks. They are
    looked at before the optimizer frees them, and nothing of them is kept.

    Attributes:
        updates: (step, layer -> Change) of the latest update, for those who measure.
    """

    def __init__(self, rules: RewiringRules, layers: list[Layer], seed: int) -> None:
        self.rules, self.layers, self.seed = rules, {layer.name: layer for layer in layers}, seed
        self.start_density: float | None = None
        self.listeners: list[Any] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        network = network_of(pl_module)
        if not masks_of(network):  # a dense source, which only pruning can make sparse
            attach(network, {name: torch.ones(layer.shape, dtype=torch.bool) for name, layer in self.layers.items()})

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network = network_of(pl_module)
        if self.start_density is None:
            self.start_density = density_of(masks_of(network))
        steps = int(trainer.estimated_stepping_batches)
        self.last_rewiring = self.rules.t_end * steps
        self.pruned_by = math.floor(self.rules.prune_until * steps / self.rules.delta_t) * self.rules.delta_t
        if self.rules.delta_t >= self.last_rewiring and trainer.is_global_zero:
            log.warning(
                "method.delta_t: %d steps, but rewiring ends with step %d of %d; nothing will be rewired",
                self.rules.delta_t, math.ceil(self.last_rewiring) - 1, steps,
            )  # fmt: skip
        self.hook = None
        if not self.rules.skip_step:

            def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
                self._maybe_update(trainer.global_step + 1, network, optimizer.state)

            self.hook = trainer.optimizers[0].register_step_post_hook(after_step)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.rules.skip_step and self._maybe_update(trainer.global_step + 1, network_of(pl_module), optimizer.state):
            for parameter in pl_module.parameters():
                parameter.grad = None  # which optimizers leave alone

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.hook:
            self.hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"start_density": self.start_density}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start_density = state_dict["start_density"]

    def prunes(self, step: int) -> bool:
        """At `step`, counted from 1."""
        due = step % self.rules.delta_t == 0 and self.rules.final_density is not None
        return due and step <= self.pruned_by

    def rewires(self, step: int) -> bool:
        return step % self.rules.delta_t == 0 and step < self.last_rewiring

    def _maybe_update(self, step: int, network: nn.Module, states: States) -> bool:
        """Whether `step` is one at which something is rewired or pruned; it then has been."""
        if not (self.prunes(step) or self.rewires(step)):
            return False
        before = {name: mask.clone() for name, mask in masks_of(network).items()}
        self._update(step, network, states)
        changes = {name: rewiring.difference(before[name], mask) for name, mask in masks_of(network).items()}
        for listener in self.listeners:
            listener(step, network, changes)
        return True

    def _update(self, step: int, network: nn.Module, states: States) -> None:
        if self.prunes(step):
            self._prune(step, network, states)
        if self.rewires(step):
            self._rewire(step, network, states)

    def _prune(self, step: int, network: nn.Module, states: States) -> None:
        """To the density of the schedule, exactly."""
        rules, masks = self.rules, masks_of(network)
        assert rules.final_density is not None and self.start_density is not None
        part = step / self.pruned_by
        density = schedules.pruned_density(self.start_density, rules.final_density, part, rules.schedule)
        count = round(density * sum(mask.numel() for mask in masks.values()))
        keep = {name: rewiring.magnitude(network.get_parameter(name)) for name in masks}
        for name, change in rewiring.prune_globally(masks, keep, count).items():
            self._apply(change, name, masks[name], network, states, step)

    def _rewire(self, step: int, network: nn.Module, states: States) -> None:
        rules, masks = self.rules, masks_of(network)
        share = schedules.drop_fraction(
            rules.drop_fraction, rules.final_fraction, step / self.last_rewiring, rules.decay
        )
        drop = {name: rewiring.magnitude(network.get_parameter(name)) for name in masks}
        for name, count in self._counts(masks, drop, share).items():
            if count:
                change = rewiring.update(masks[name], drop[name], self._grow(step, name, network), count, rules.regrow)
                if rules.keep_flow:
                    random = generator(self.seed, name, "flow", str(step))
                    change = rewiring.repair_change(change, masks[name], self.layers[name], random)
                self._apply(change, name, masks[name], network, states, step)

    def _counts(self, masks: Masks, drop: dict[str, Tensor], share: float) -> dict[str, int]:
        if self.rules.scope == "global":
            return rewiring.global_drop_counts(masks, drop, share, self.rules.regrow)
        return {
            name: rewiring.drop_count(int(mask.sum()), mask.numel(), share, self.rules.regrow)
            for name, mask in masks.items()
        }

    def _grow(self, step: int, name: str, network: nn.Module) -> Tensor:
        weight = network.get_parameter(name)
        if self.rules.grow == "random":
            return rewiring.random_growth_scores(tuple(weight.shape), self.seed, name, step).to(weight.device)
        assert weight.grad is not None
        return rewiring.magnitude(weight.grad)

    def _apply(
        self, change: rewiring.Change, name: str, mask: Tensor, network: nn.Module, states: States, step: int
    ) -> None:
        weight, values = network.get_parameter(name), None
        if self.rules.grown_value == "random":
            drawn = generator(self.seed, name, "grown", str(step)).standard_normal(tuple(weight.shape))
            values = torch.from_numpy(drawn * (2 / self.layers[name].fan_in) ** 0.5)
        forget = self.rules.grown_state == "zero"
        rewiring.apply(change, mask, weight, states.get(weight, {}), values, forget)
