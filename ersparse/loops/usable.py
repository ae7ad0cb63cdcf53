"""Checks that a network can be made sparse."""

from __future__ import annotations

from torch import nn

from ersparse.errors import UserError
from ersparse.sparse.layers import Layer, prunable_weights
from ersparse.sparse.selection import Selection
from ersparse.sparse.weight_use import unusable_weight
from ersparse.sparse.wrappers import check_not_sharded


def usable_layers(network: nn.Module, selection: Selection = Selection()) -> list[Layer]:
    """Return the selected layers of a network that can be made sparse.

    Raises:
        UserError: there are none, or one is sharded, reparametrised or uninitialised.
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"network={network!r}: must be a torch.nn.Module")
    check_not_sharded(network)
    weights, where = prunable_weights(network, selection.include is not None), f"module={type(network).__name__}"
    if not weights:
        raise UserError(f"{where}: has no prunable weights, such as those of convolutions and linear layers")
    for name, held in weights.items():
        if isinstance(held.parameter, nn.UninitializedParameter):
            raise UserError(f"{where}: {name} has no shape yet; pass a batch through the module first")
    layers = selection.layers_of(network)
    if reason := unusable_weight(network, [layer.name for layer in layers]):
        raise UserError(f"{where}: {reason}")
    if on_meta := [layer.name for layer in layers if weights[layer.name].weight.is_meta]:
        raise UserError(f"{where}: {on_meta[0]} has no values (meta device); make it sparse once they are loaded")
    return layers
