"""Construction of weak tickets: edges of a drawn ER source network that represent a target exactly (A.3, A.4, A.5).

Every target neuron or channel has a block of copies in the source network. A target weight is represented by one kept
edge from the block of its input to each copy of its output; layer 0 copies the inputs. The elements of a convolution
kernel are represented one by one, possibly by different channels of a block, because a convolution is linear in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ersparse.errors import UserError
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import Masks, attach, enforce
from ersparse.theory.input_copy_layer import InputCopy, with_input_copy_layer
from ersparse.theory.networks import (
    AffineLayer,
    affine_layers,
    draw_masks,
    nonzero_weights,
    source_network,
    without_dead_ends,
)
from ersparse.theory.widths import weak_copies


class MissingRepresentative(UserError):
    """Error of a drawn source network that has no kept edge to represent some target weight.

    Attributes:
        layer: layer of the target, 1..L.
        out: output neuron or channel of the weight.
        into: input neuron or channel of the weight.
    """

    def __init__(self, layer: int, out: int, into: int, copies: int, enough: int) -> None:
        self.layer, self.out, self.into = layer, out, into
        super().__init__(
            f"layer {layer}: the weight from {into} to {out} has no representative among {copies} copies of its input; "
            f"{enough} copies do in 99 of 100 draws"
        )


@dataclass(frozen=True)
class WeakTicket:
    """A source network that equals its target, with the masks of the construction.

    Attributes:
        network: linear or convolutional layers with ReLU; the ticket's masks are attached, weights and biases are set.
        source_masks: masks of the ER source network as drawn.
        masks: masks of the ticket, subsets of `source_masks`.
    """

    network: nn.Sequential
    source_masks: Masks
    masks: Masks


def weak_ticket(
    target: nn.Module,
    copies: Sequence[int],
    p: Sequence[float],
    seed: int,
    low: float = 0.0,
    identity: InputCopy = "auto",
    kernel: int = 1,
    every_copy: bool = True,
) -> WeakTicket:
    """Draw an ER source network and construct the target in it.

    Args:
        target: network of the form that `affine_layers` accepts.
        copies: q_0..q_L, source neurons or channels for each one of the target (see `weak_copies`); q_L is 1.
        p: densities p_0..p_L.
        seed: seed of the source masks.
        low: lower end of the input interval; only `identity` "shift" and "padded" depend on it.
        identity: how layer 0 copies an input through a ReLU, see `with_input_copy_layer`.
        kernel: kernel size of layer 0, see `with_input_copy_layer`.
        every_copy: whether every copy of a neuron must be complete, as in the theorems; otherwise incomplete copies
            are pruned.

    Raises:
        MissingRepresentative: the drawn source network has no edge for some target weight.
        UserError: the target is not supported, or `copies` or `p` do not fit it.
    """
    layers = with_input_copy_layer(affine_layers(target), low, identity, kernel)
    _check(layers, copies, p)
    network = source_network(layers, copies)
    drawn = draw_masks(network, p, seed)
    return _construct(network, layers, copies, p, drawn, every_copy)


def _sufficient_copies(layers: Sequence[AffineLayer], p: Sequence[float]) -> list[int]:
    """Return the copies that suffice in 99 % of draws; layer 0 is not part of the target."""
    return weak_copies(nonzero_weights(layers[1:]), p, 0.01)


def _check(layers: Sequence[AffineLayer], copies: Sequence[int], p: Sequence[float]) -> None:
    enough = _sufficient_copies(layers, p)
    if len(copies) != len(layers) or copies[-1] != 1:
        raise UserError(f"copies={list(copies)}: must be {len(layers)} numbers, the last 1; {enough} would suffice")
    for index, number in enumerate(copies):
        if number < 1:
            raise UserError(f"copies={list(copies)}: layer {index} must have 1 or more; {enough[index]} would suffice")


def _construct(
    network: nn.Sequential,
    layers: list[AffineLayer],
    copies: Sequence[int],
    p: Sequence[float],
    drawn: Masks,
    every_copy: bool,
) -> WeakTicket:
    modules, masks = {name: held.module for name, held in prunable_weights(network).items()}, {}
    usable = torch.ones(layers[0].weight.shape[1], 1, dtype=torch.bool)  # [inputs, copies]
    for index, (name, layer) in enumerate(zip(modules, layers, strict=True)):
        blocks = _blocks(drawn[name], layer, copies[index])
        chosen, missing = choose_representatives(layer.weight, blocks, usable)
        complete = ~missing.flatten(2).any(2)
        if index and not (complete.all() if every_copy else complete.any(1).all()):
            enough = _sufficient_copies(layers, p)[index - 1]
            raise _missing_representative(index, missing, complete, copies[index - 1], enough)
        usable = complete
        chosen &= usable[:, :, None, None, None]
        masks[name] = chosen.reshape(drawn[name].shape)
        weight = layer.weight.reshape(len(layer.weight), 1, layer.weight.shape[1], 1, -1)
        modules[name].weight.data = (weight * chosen).reshape(drawn[name].shape)
        modules[name].bias.data = layer.bias.repeat_interleave(copies[index])  # type: ignore[union-attr]
    masks = without_dead_ends(masks)
    attach(network, masks)
    enforce(network)
    return WeakTicket(network, drawn, masks)


def _blocks(mask: Tensor, layer: AffineLayer, copies: int) -> Tensor:
    """Return the mask as [outputs, copies, inputs, input copies, kernel elements]."""
    outputs, inputs = layer.weight.shape[:2]
    return mask.reshape(outputs, copies, inputs, mask.shape[1] // inputs, -1)


def choose_representatives(weight: Tensor, mask: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Choose one kept edge for each nonzero target weight into every copy of its output.

    Args:
        weight: target weights, [outputs, inputs, *kernel].
        mask: drawn edges, [outputs, copies, inputs, input copies, kernel elements].
        usable: input copies that are complete, [inputs, input copies].

    Returns:
        The chosen edges in the shape of `mask`, and the target weights without a representative,
        [outputs, copies, inputs, kernel elements].
    """
    nonzero = weight.reshape(weight.shape[0], 1, weight.shape[1], -1).ne(0)
    present = mask & usable[:, :, None]
    missing = nonzero & ~present.any(3)
    first = present.byte().argmax(3, keepdim=True)
    chosen = torch.zeros_like(present).scatter_(3, first, (nonzero & ~missing)[:, :, :, None])
    return chosen, missing


def _missing_representative(
    layer: int, missing: Tensor, complete: Tensor, copies: int, enough: int
) -> MissingRepresentative:
    """Return an error that names a missing weight, preferably of an output that has no complete copy."""
    incomplete = ~complete.any(1)
    candidates = missing & incomplete[:, None, None, None] if incomplete.any() else missing
    out, _, into, _ = (int(index) for index in candidates.nonzero()[0])
    return MissingRepresentative(layer, out, into, copies, enough)
