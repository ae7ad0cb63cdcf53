"""Updates of the masks of a network while it trains, in a run, a Lightning module or a loop of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ersparse.config.rewiring_rules import RewiringRules
from ersparse.distributed.collectives import average
from ersparse.errors import UserError
from ersparse.loops.pattern_units import PatternUnits
from ersparse.sparse import redistribution, rewiring, row_rewiring, schedules
from ersparse.sparse import rewiring_rules as R
from ersparse.sparse.keep import record_dense_gradients, take_dense_gradients
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks, masks_of
from ersparse.sparse.patterns import NOfM, Pattern
from ersparse.sparse.rng import generator
from ersparse.sparse.transfer import counts, to_device

States = MutableMapping[Tensor, Any]  # parameter -> optimizer state
Given = dict[str, dict[str, Callable[[], Any]]]  # by layer and name
Listener = Callable[[int, nn.Module, Mapping[str, rewiring.Change]], None]


class MaskUpdates:
    """Updates the masks at every `delta_t`-th step: when, by how much, and which weights.

    An update prunes by `ersparse.sparse.rewiring.prune_globally` while the density falls, and then drops and grows by
    `ersparse.sparse.rewiring.update`; `apply` of the same module carries out each change. Updates follow from the step
    and the state of the network alone.

    Dense gradients are those of the backward pass of the same step, accumulated over batches and averaged over ranks.
    They are recorded in the steps of updates only (`ersparse.sparse.keep.record_dense_gradients`); the optimizer and
    gradient clipping see the gradients of kept weights.

    Args:
        rules: settings of rewiring.
        layers: prunable layers of the network.
        seed: seed of random growth and of flow repair.
        pattern: the pattern of masks that updates keep; None rewires single weights.

    Attributes:
        listeners: functions called after each update with (step, network, changes by layer name).
        start_density: realised density when training started.
        rewiring_end: end of rewiring in optimizer steps, possibly fractional; updates happen at steps before it.
        first_pruning_step: the step at which pruning starts from `start_density`.
        last_pruning_step: the last step at which weights are pruned, to the final density.
        recording: whether dense gradients are recorded.
    """

    rewiring_end: float
    first_pruning_step: int
    last_pruning_step: int

    def __init__(self, rules: RewiringRules, layers: list[Layer], seed: int, pattern: Pattern | None = None) -> None:
        self.rules, self.layers, self.seed = rules, {layer.name: layer for layer in layers}, seed
        self.pattern, self.units = pattern, PatternUnits(self.layers, pattern)
        self.start_density: float | None = None
        self.listeners: list[Listener] = []
        self.recording = False
        self.drop = R.rule_named(rules.drop, R.DROP, "drop")
        self.grow = R.rule_named(rules.grow, R.GROW, "grow")
        self.share = R.SHARES.get(rules.redistribute)
        self.needs_gradient = any(R.needs(rule, "gradient") for rule in (self.drop, self.grow, self.share))

    def plan(self, steps: int) -> str | None:
        """Compute the steps of updates of a training of so many steps; return a line if nothing will be rewired."""
        delta_t = self.rules.delta_t
        self.rewiring_end = self.rules.t_end * steps
        # where no update is due while the density may fall, the last step of that time prunes all at once
        until = max(1, math.floor(self.rules.prune_until * steps))
        first = math.ceil(self.rules.prune_from * steps / delta_t) * delta_t
        last = until // delta_t * delta_t
        self.last_pruning_step = last if last > first else until
        self.first_pruning_step = min(first, self.last_pruning_step - 1)
        if delta_t < self.rewiring_end or self.rules.t_end == 0:
            return None
        last = math.ceil(self.rewiring_end) - 1
        return f"{delta_t} steps, but rewiring ends with step {last} of {steps}; nothing will be rewired"

    def record_if_due(self, step: int, network: nn.Module) -> None:
        """Record the dense gradients of `step`, from zero, if it rewires by them."""
        self.recording = self.needs_gradient and self.rewires(step)
        if self.recording:
            record_dense_gradients(self._weights(network).values())

    def drop_record(self, network: nn.Module) -> None:
        """Drop the record of dense gradients, such as that of a step that did not take place."""
        self.recording = False
        take_dense_gradients(self._weights(network))

    def prunes(self, step: int) -> bool:
        """Return whether `step`, counted from 1, changes the density."""
        if self.rules.final_density is None or not self.first_pruning_step < step <= self.last_pruning_step:
            return False
        return step % self.rules.delta_t == 0 or step == self.last_pruning_step

    def rewires(self, step: int) -> bool:
        """Return whether `step`, counted from 1, drops and grows weights."""
        return step % self.rules.delta_t == 0 and step < self.rewiring_end

    def is_due(self, step: int) -> bool:
        """Return whether `step`, counted from 1, updates the masks."""
        return self.prunes(step) or self.rewires(step)

    def update_and_report(self, step: int, network: nn.Module, states: States) -> None:
        """Update the masks, and call the listeners."""
        before = {name: mask.clone() for name, mask in masks_of(network).items()}
        self._update(step, network, states)
        changes = {name: rewiring.difference(before[name], mask) for name, mask in masks_of(network).items()}
        for listener in self.listeners:
            listener(step, network, changes)

    def _update(self, step: int, network: nn.Module, states: States) -> None:
        active = counts(masks_of(network))
        if self.prunes(step):
            self._prune(step, network, states, active)
            active = counts(masks_of(network)) if self.rewires(step) else {}
        if self.rewires(step):
            self._rewire(step, network, states, active)

    def _prune(self, step: int, network: nn.Module, states: States, active: dict[str, int]) -> None:
        """Prune by magnitude to exactly the density of the schedule."""
        rules, masks, density = self.rules, masks_of(network), self._density(step)
        keep = {name: rewiring.magnitude(network.get_parameter(name)) for name in masks}
        groups = [list(masks)] if rules.prune_scope == "global" else [[name] for name in masks]
        for names in groups:
            group = {name: masks[name] for name in names}
            count = round(density * sum(mask.numel() for mask in group.values()))
            changes = rewiring.prune_globally(group, keep, count, {name: active[name] for name in names})
            for name, change in changes.items():
                self._apply(change, name, masks[name], network, states, step)

    def _density(self, step: int) -> float:
        """Return the density of the schedule at a step that changes it."""
        rules = self.rules
        assert rules.final_density is not None and self.start_density is not None
        part = (step - self.first_pruning_step) / (self.last_pruning_step - self.first_pruning_step)
        return schedules.pruned_density(self.start_density, rules.final_density, part, rules.schedule, rules.cycles)

    def _surplus(self, step: int, masks: Masks, active: dict[str, int]) -> int:
        """Return how many more weights than it drops an update grows, because the density rises."""
        if self.rules.schedule != "cyclic" or not self.prunes(step):
            return 0
        return max(0, round(self._density(step) * sum(map(Tensor.numel, masks.values()))) - sum(active.values()))

    def _rewire(self, step: int, network: nn.Module, states: States, active: dict[str, int]) -> None:
        """Drop and grow as many weights, in each layer or, if layers share what they grow, in all."""
        masks = masks_of(network)
        given = self._given(step, network, states)
        units = {name: self.units.of(name, mask) for name, mask in masks.items()}
        active = {name: count * units[name].numel() // masks[name].numel() for name, count in active.items()}
        drop = {name: self._scores(self.drop, name, given) for name in masks}
        dropped = self._drop_counts(step, units, drop, active)
        left = {name: active[name] - count for name, count in dropped.items()}
        for name in masks:
            given[name]["kept"] = partial(self._kept, name, units[name], drop[name], left[name])
            given[name]["left"] = partial(int, left[name] * masks[name].numel() // units[name].numel())
        grown = self._grow_counts(units, dropped, left, given, self._surplus(step, units, active))
        changes = {}
        for name in masks:
            if dropped[name] or grown[name]:
                grow, number = self._scores(self.grow, name, given), (dropped[name], grown[name])
                order = self._tie_order(step, name, units[name])
                changes[name] = self._change(name, units[name], drop[name], grow, number, active[name], order)
        if self.rules.keep_flow:
            random = partial(self._flow_generator, step)
            changes = rewiring.repair_changes(changes, units, self.units.layers, random)
        for name, change in changes.items():
            self._apply(self.units.change(name, change), name, masks[name], network, states, step)

    def _kept(self, name: str, units: Tensor, drop: Tensor, left: int) -> Tensor:
        return self.units.weights(name, rewiring.kept(units, drop, left))

    def _given(self, step: int, network: nn.Module, states: States) -> Given:
        """Return what rules may take, by layer and name, as functions that compute it."""
        masks, dense = masks_of(network), self._dense_gradients(network)

        def of(name: str) -> dict[str, Callable[[], Any]]:
            weight = network.get_parameter(name)
            return {
                "weight": lambda: weight.detach(),
                "mask": lambda: masks[name],
                "gradient": lambda: dense[name],
                "momentum": lambda: R.momentum_of(states.get(weight, {}), name),
                "layer": lambda: self.layers[name],
                "random": lambda: generator(self.seed, name, "grow", str(step)),
                "mest_lambda": lambda: self.rules.mest_lambda,
            }

        return {name: of(name) for name in masks}

    def _scores(self, rule: R.Rule, name: str, given: Given) -> Tensor:
        mask = given[name]["mask"]()
        scores = R.apply_rule(rule, given[name]).detach()
        if scores.shape != mask.shape:
            raise UserError(
                f"{getattr(rule, '__name__', rule)}: returned scores of shape {list(scores.shape)} for {name}, must be "
                f"{list(mask.shape)}"
            )
        return self.units.of(name, to_device(scores.nan_to_num(nan=0.0), mask.device))

    def _change(
        self,
        name: str,
        mask: Tensor,
        drop: Tensor,
        grow: Tensor,
        number: tuple[int, int],
        active: int,
        order: Tensor | None,
    ) -> rewiring.Change:
        """Return the change of one layer that drops and grows weights; `number` has how many of each."""
        dropped, grown = number
        layer = self.layers[name]
        if isinstance(self.pattern, NOfM):
            groups = [self.pattern.split(layer, tensor) for tensor in (mask, drop, grow)]
            wanted = torch.full_like(groups[0][:, 0], self.pattern.n, dtype=torch.int64)
            after = row_rewiring.rewired_rows(groups[0], groups[1], groups[2], dropped, active, wanted)
            return rewiring.difference(mask, self.pattern.join(layer, after))
        if not self.rules.fan_in:
            return rewiring.update(mask, drop, grow, dropped, self.rules.regrow, active, grown, order)
        layer = self.units.layers[name]
        mask_, drop_, grow_ = (layer.to_rows(tensor).flatten(1) for tensor in (mask, drop, grow))
        ablate = 0.0 if name == list(self.layers)[-1] else self.rules.ablate  # classes keep their inputs
        salient = row_rewiring.salient_weights(mask_, drop_, grow_, dropped, active)
        targets = row_rewiring.equal_targets(mask_, active, salient, ablate)
        after = row_rewiring.rewired_rows(mask_, drop_, grow_, dropped, active, targets)
        return rewiring.difference(mask, layer.from_rows(after.reshape(layer.rows_shape)))

    def _tie_order(self, step: int, name: str, mask: Tensor) -> Tensor | None:
        """Return the order in which weights with equal scores are grown; None is that of the layer."""
        if self.rules.ties == "first":
            return None
        return rewiring.spread_order(mask.numel(), self.seed, name, step, mask.device)

    def _flow_generator(self, step: int, name: str) -> np.random.Generator:
        return generator(self.seed, name, "flow", str(step))

    def _drop_counts(self, step: int, masks: Masks, drop: dict[str, Tensor], active: dict[str, int]) -> dict[str, int]:
        rules = self.rules
        fraction = schedules.drop_fraction(
            rules.drop_fraction, rules.final_fraction, step / self.rewiring_end, rules.decay
        )
        regrow, shared = rules.regrow, self.share is not None  # a layer that shares may have become full
        if rules.scope == "global":
            return rewiring.global_drop_counts(masks, drop, fraction, regrow, active, shared)
        return {
            name: rewiring.drop_count(active[name], mask.numel(), fraction, regrow, shared)
            for name, mask in masks.items()
        }

    def _grow_counts(
        self, masks: Masks, dropped: dict[str, int], left: dict[str, int], given: Given, surplus: int
    ) -> dict[str, int]:
        """Return how many weights each layer grows: what is dropped and, in proportion to what is left, `surplus`."""
        grown = self._shared(masks, dropped, left, given)
        if surplus == 0:
            return grown
        dropped_too = dict.fromkeys(masks, 0) if self.rules.regrow else dropped
        room = [mask.numel() - left[name] - grown[name] - dropped_too[name] for name, mask in masks.items()]
        more = redistribution.allocate(min(surplus, sum(room)), [float(left[n]) for n in masks], [0] * len(room), room)
        return {name: grown[name] + extra for name, extra in zip(masks, more, strict=True)}

    def _shared(self, masks: Masks, dropped: dict[str, int], left: dict[str, int], given: Given) -> dict[str, int]:
        """Return how many of the dropped weights each layer grows. One that has lost all grows at least one."""
        if self.share is None:
            return dropped
        shares = torch.stack([R.apply_rule(self.share, given[name]) for name in masks]).tolist()
        lower = [int(left[name] == 0 < dropped[name]) for name in masks]
        upper = [mask.numel() - left[name] for name, mask in masks.items()]
        grown = redistribution.allocate(sum(dropped.values()), shares, lower, upper)
        return dict(zip(masks, grown, strict=True))

    def _dense_gradients(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the dense gradients of this step by layer name, averaged over ranks; empty if no rule takes them."""
        if not self.needs_gradient:
            return {}
        weights, self.recording = self._weights(network), False
        recorded = take_dense_gradients(weights)
        average(recorded.values())
        # without the gradient hooks of FixedMask, the gradients themselves are dense
        return recorded | {name: w.grad for name, w in weights.items() if name not in recorded and w.grad is not None}

    def _weights(self, network: nn.Module) -> dict[str, Tensor]:
        return {name: network.get_parameter(name) for name in masks_of(network)}

    def _apply(
        self, change: rewiring.Change, name: str, mask: Tensor, network: nn.Module, states: States, step: int
    ) -> None:
        """Apply a change to mask, weight and optimizer state of one layer."""
        weight, values = network.get_parameter(name), None
        if self.rules.grown_value == "random":
            drawn = generator(self.seed, name, "grown", str(step)).standard_normal(tuple(weight.shape))
            values = torch.from_numpy(drawn * (2 / self.layers[name].fan_in) ** 0.5)
        reset_state = self.rules.grown_state == "zero"
        rewiring.apply(change, mask, weight, states.get(weight, {}), values, reset_state)
