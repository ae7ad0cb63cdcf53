"""Rewiring in a loop of one's own: RigL, SET, GraNet and other methods."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ersparse.config.drawing import is_pattern
from ersparse.config.groups import build
from ersparse.config.options import with_defaults
from ersparse.config.rewiring_rules import RewiringRules
from ersparse.config.types import plain
from ersparse.errors import UserError
from ersparse.loops.mask_updates import MaskUpdates
from ersparse.sparse.keep import Handle, Hooks, keep, keep_weights
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.mask import attach, density_of, enforce_on_load, masks_of
from ersparse.sparse.patterns import Pattern, pattern_named
from ersparse.sparse.wrappers import unwrapped

METHODS = ("rigl", "set", "granet", "srigl", "mest", "cht", "dsr", "sparse_momentum", "east")


def rewiring_rules(method: str, options: dict[str, Any]) -> RewiringRules:
    """Return the settings of a rewiring method: the keys of conf/method, with those of `options` replaced.

    Raises:
        UserError: the method or a key is unknown, or a value is not allowed.
    """
    if method not in METHODS:
        raise UserError(f"method={method}: must be one of {', '.join(METHODS)}")
    for key, value in options.items():
        if key not in RewiringRules.model_fields:
            raise UserError(f"{key}={value}: no such option; the options are {', '.join(RewiringRules.model_fields)}")
    defaults = {k: value for k, value in with_defaults("method", method).items() if k in RewiringRules.model_fields}
    rules = build(RewiringRules, defaults | options)
    rules.check_combination()
    return rules


def kept_pattern(
    rules: RewiringRules, text: str | None, layers: list[Layer], masks: Mapping[str, Tensor]
) -> Pattern | None:
    """Return the pattern that updates keep.

    Raises:
        UserError: it is none, the rules cannot keep it, or a mask that is neither full nor empty has another one.
    """
    if text is None:
        return None
    if not is_pattern(text):
        raise UserError(f"pattern={text}: must be N:M with N < M, RxC, or None")
    rules.check_combination("", text)
    pattern = pattern_named(text)
    for layer in layers:
        mask = masks.get(layer.name)
        if mask is not None and mask.any() and not mask.all() and not pattern.fits(layer, mask):
            raise UserError(f"pattern={text}: the mask of {layer.name} does not have it; sparsify draws it")
    return pattern


def rewire(
    network: nn.Module,
    optimizer: Optimizer,
    method: str = "rigl",
    *,
    steps: int,
    seed: int = 0,
    pattern: str | None = None,
    **options: Any,
) -> Rewired:
    """Rewire `network` while `optimizer` trains it: call `step()` of the handle once after every `optimizer.step()`.

    Every `delta_t` steps each layer drops its smallest weights and grows as many: where the dense gradient is largest
    ("rigl", Evci et al. 2020), at random ("set", Mocanu et al. 2018), as RigL while the whole network is pruned to
    `final_sparsity` ("granet", Liu et al. 2021), or by another method of `docs/methods.md`. Removed weights and their
    gradients are zero, as with `keep_masks`; dense gradients exist only in the steps of updates. With the seed, data
    and settings of a run, the masks are those of the run. Networks in wrappers (DDP, `torch.compile`) are rewired alike
    on all ranks.

    Args:
        network: a network with masks, such as `sparsify` returns; for "granet" a dense one as well.
        optimizer: the optimizer of its parameters.
        method: "rigl", "set", "granet", "srigl", "mest", "cht", "dsr", "sparse_momentum" or "east".
        steps: number of optimizer steps of the whole training.
        seed: seed of random growth and of flow repair.
        pattern: the pattern that the masks have and keep, as for `sparsify`; None rewires single weights.
        **options: keys of the method, such as delta_t=100 (steps between updates), drop_fraction=0.1, t_end=0.75, with
            the defaults of `conf/method/rigl.yaml`.

    Returns:
        A handle with `step()`, `state_dict()`, `load_state_dict()` and `remove()`.

    Raises:
        UserError: the network has no masks, an argument is unknown or out of range, or a masked weight is computed from
            other tensors. The message is one line, and nothing has changed.

    Example:
        >>> rigl = ersparse.rewire(network, optimizer, "rigl", steps=epochs * len(loader), delta_t=100)
        >>> for x, y in loader:
        ...     optimizer.zero_grad()
        ...     torch.nn.functional.cross_entropy(network(x), y).backward()
        ...     optimizer.step()
        ...     rigl.step()
    """
    network, rules, steps, seed = unwrapped(network), rewiring_rules(method, options), plain(steps), plain(seed)
    if not (isinstance(steps, int) and steps > 0):
        raise UserError(f"steps={steps}: must be a positive number of optimizer steps")
    layers, masks = prunable_layers(network), masks_of(network)
    if not masks and rules.final_sparsity is None:
        raise UserError(f"module={type(network).__name__}: has no masks; call sparsify first")
    if rules.final_density is not None and masks and rules.final_density > density_of(masks):
        raise UserError(f"final_sparsity={rules.final_sparsity}: must be at least the network's {_sparsity(network)}")
    if not masks:
        attach(network, {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers})
    updates = MaskUpdates(rules, layers, seed, kept_pattern(rules, pattern, layers, masks_of(network)))
    updates.start_density = density_of(masks_of(network))
    if unused := updates.plan(steps):
        warnings.warn(f"delta_t: {unused}", stacklevel=2)
    return Rewired(network, optimizer, updates)


def _sparsity(network: nn.Module) -> str:
    return f"{1 - density_of(masks_of(network)):.6g}"


class Rewired:
    """The handle that `rewire` returns.

    Attributes:
        updates: when and how the masks are updated.
        count: number of calls of `step()` so far.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, updates: MaskUpdates) -> None:
        self.network, self.optimizer, self.updates, self.count = network, optimizer, updates, 0
        # momentum that grown weights keep has to see the gradients of removed weights
        dense = updates.rules.grown_state == "keep"
        masked: Handle = keep_weights(network, optimizer) if dense else keep(network, optimizer)
        enforce_on_load(network)
        hooks = [masked, optimizer.register_step_post_hook(self._note_step)]
        if updates.rules.skip_step:
            hooks.append(optimizer.register_step_pre_hook(self._update_in_place_of_step))
        self.hooks, self._stepped, self._updated = Hooks(hooks), False, False
        updates.record_if_due(1, network)

    def step(self) -> bool:
        """Update the masks if this step is due, and return whether they were updated.

        A step that the optimizer did not make, because a GradScaler found an overflow, updates nothing.
        """
        self.count += 1
        if self._stepped and not self._updated and self.updates.is_due(self.count):
            self.updates.update_and_report(self.count, self.network, self.optimizer.state)
            self._updated = True
        if self.updates.recording:
            self.updates.drop_record(self.network)
        self.updates.record_if_due(self.count + 1, self.network)
        updated, self._stepped, self._updated = self._updated, False, False
        return updated

    def state_dict(self) -> dict[str, Any]:
        """Return what a training that is resumed needs, beside the state dicts of network and optimizer."""
        return {"count": self.count, "start_density": self.updates.start_density}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after `state_dict()`."""
        self.count, self.updates.start_density = state_dict["count"], state_dict["start_density"]
        self.updates.drop_record(self.network)
        self.updates.record_if_due(self.count + 1, self.network)

    def remove(self) -> None:
        """Unregister all hooks: masks and removed weights are then no longer kept."""
        self.updates.drop_record(self.network)
        self.hooks.remove()

    def _note_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped = True

    def _update_in_place_of_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Update before the step, which then does nothing, since there are no gradients."""
        if self.updates.is_due(self.count + 1):
            self.updates.update_and_report(self.count + 1, self.network, optimizer.state)
            self._updated = True
            optimizer.zero_grad()
