"""Removed weights stay at zero while a network trains, and optimizers see gradients of kept weights alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ersparse.sparse import mask as M
from ersparse.sparse.layers import PrunableWeight, prunable_weights
from ersparse.sparse.mask_buffer import zero_all_removed, zero_removed
from ersparse.sparse.wrappers import check_not_sharded

DENSE_GRADIENT = "_dense_gradient"  # attribute of a weight: None if its dense gradient is to be recorded, or the record


class Handle(Protocol):
    """A registered hook."""

    def remove(self) -> None:
        """Unregister the hook."""


class Hooks:
    """Registered hooks that are removed together.

    Args:
        handles: the handles of the hooks.
    """

    def __init__(self, handles: Sequence[Handle]) -> None:
        self.handles = handles

    def remove(self) -> None:
        """Unregister all hooks."""
        for handle in self.handles:
            handle.remove()


def keep(module: nn.Module, optimizer: Optimizer) -> Hooks:
    """Keep the weights that masks remove at exactly zero while `optimizer` trains `module`.

    Removed weights are zero after every step of `optimizer` and after `load_state_dict`. Their gradients are zero as
    soon as a backward pass has accumulated them, so gradient clipping, closures, norms of whole layers (LARS, SAM) and
    the optimizer's moments see the kept weights alone.

    Args:
        module: any module with masks; masks that are attached later count as well.
        optimizer: the optimizer of the module's parameters.

    Returns:
        A handle whose `remove()` unregisters the hooks of the optimizer and of the gradients.

    Raises:
        UserError: a masked weight is computed from other tensors, because weight_norm, spectral_norm or another
            parametrization was registered after the mask (if it is registered later, the next step raises); or a
            parameter is sharded over devices (FSDP).

    Example:
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        >>> handle = ersparse.keep_masks(network, optimizer)
    """
    return Hooks([keep_weights(module, optimizer), keep_gradients(module)])


def keep_weights(module: nn.Module, optimizer: Optimizer) -> Handle:
    """Set removed weights to zero after every step of `optimizer` and after `load_state_dict`.

    Raises:
        UserError: a masked weight is computed from other tensors, or a parameter is sharded.
    """
    check_not_sharded(module)
    weights = prunable_weights(module)

    @torch.no_grad()
    def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        masked = {name: held for name, held in weights.items() if M.is_masked(held)}
        stored = [M.stored_weight(name, held).detach() for name, held in masked.items()]
        zero_all_removed(stored, [M.mask_of(held) for held in masked.values()])

    M.enforce(module)
    M.enforce_on_load(module)
    return optimizer.register_step_post_hook(after_step)


def keep_gradients(module: nn.Module) -> Hooks:
    """Set gradients of removed weights to zero whenever a backward pass has accumulated them.

    The hook of each weight runs before DDP averages gradients over ranks, and while the gradient is still in the
    processor's cache. It reads 5 bytes and writes 4 for each weight in single precision.
    """
    weights = prunable_weights(module).values()
    parameters = [(held.parameter, held) for held in weights if held.parameter is not None]
    return Hooks([_register(parameter, held) for parameter, held in parameters if _has_gradient(parameter)])


def _has_gradient(weight: Tensor) -> bool:
    """Return whether a weight can have a gradient: one that was made in inference mode, or of integers, cannot."""
    return not weight.is_inference() and (weight.is_floating_point() or weight.is_complex())


def _register(weight: Tensor, held: PrunableWeight) -> Handle:
    """Register the hook of a weight, also if it is frozen: it may be trained later."""
    trained = weight.requires_grad
    hook = partial(_keep_gradient, held)
    handle: Handle = weight.requires_grad_().register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
    weight.requires_grad_(trained)
    return handle


def _keep_gradient(held: PrunableWeight, weight: Tensor) -> None:
    gradient = weight.grad
    if not M.is_masked(held) or gradient is None or gradient.layout != torch.strided:
        return
    gradient, mask = gradient.detach(), M.mask_of(held)
    if hasattr(weight, DENSE_GRADIENT):
        _record(weight, gradient, mask)
    zero_removed(gradient, mask)


def _record(weight: Tensor, gradient: Tensor, mask: Tensor) -> None:
    """Record a gradient before its removed part is set to zero.

    The kept part accumulates in the gradient itself, the removed part in the record.
    """
    earlier = getattr(weight, DENSE_GRADIENT)
    dense = gradient.clone() if earlier is None else torch.where(mask, gradient, gradient + earlier)
    setattr(weight, DENSE_GRADIENT, dense)


def record_dense_gradients(weights: Iterable[Tensor]) -> None:
    """Record the dense gradients of the backward passes that follow, from zero."""
    for weight in weights:
        setattr(weight, DENSE_GRADIENT, None)


def records_dense_gradients(weights: Iterable[Tensor]) -> bool:
    """Return whether the next backward pass records the dense gradient of a weight."""
    return any(hasattr(weight, DENSE_GRADIENT) for weight in weights)


def take_dense_gradients(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the recorded dense gradients by name, and record no more; weights without a record are left out."""
    found = {name: getattr(weight, DENSE_GRADIENT, None) for name, weight in weights.items()}
    for weight in weights.values():
        if hasattr(weight, DENSE_GRADIENT):
            delattr(weight, DENSE_GRADIENT)
    return {name: gradient for name, gradient in found.items() if gradient is not None}
