"""Weak tickets, built: the edges of a drawn ER source that make it equal to a target (A.3, A.4, A.5).

Every target neuron or channel has a block of copies in the source. A target weight is carried by one kept edge from
its input's block to each copy of its output; layer 0 copies the inputs. The elements of a convolution's kernel are
carried one by one, by different channels of a block where need be: a convolution is linear in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ersparse.errors import UserError
from ersparse.sparse.layers import prunable_modules
from ersparse.sparse.mask import Masks, attach, enforce
from ersparse.theory.input_copy_layer import Identity, with_extra_layer
from ersparse.theory.networks import Stage, draw_masks, needed_weights, stages_of, widened, without_dead_ends
from ersparse.theory.widths import weak_copies


class NoRepresentative(UserError):
    """A target weight that no kept edge of the source can carry.

    Attributes:
        layer: of the target, 1..L.
        out, into: the neurons or channels that the weight connects.
    """

    def __init__(self, layer: int, out: int, into: int, copies: int, enough: int) -> None:
        self.layer, self.out, self.into = layer, out, into
        super().__init__(
            f"layer {layer}: the weight from {into} to {out} has no representative among {copies} copies of its input; "
            f"{enough} copies do in 99 of 100 draws"
        )


@dataclass(frozen=True)
class Ticket:
    """A source network that equals its target, and the masks that say how.

    Attributes:
        network: layers and ReLU; the ticket's masks are attached, its weights and biases set.
        source_masks: as drawn.
        masks: the edges that the ticket uses, each among those drawn.
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
    identity: Identity = "auto",
    kernel: int = 1,
    every_copy: bool = True,
) -> Ticket:
    """Draws an ER source and builds the target in it.

    Args:
        target: see `stages_of`.
        copies: q_0..q_L, neurons of the source for one of the target (`weak_copies`); q_L is 1.
        p: densities p_0..p_L.
        low: lower end of the inputs' box; only `identity` "shift" and "padded" depend on it.
        identity, kernel: how layer 0 copies an input through a ReLU, see `with_extra_layer`.
        every_copy: every copy of a neuron must be whole, as in the theorems; otherwise broken ones are left out.

    Raises:
        NoRepresentative: the drawn source has no edge for some target weight.
        UserError: the target is not covered, or `copies` or `p` do not fit it.
    """
    stages = with_extra_layer(stages_of(target), low, identity, kernel)
    _check(stages, copies, p)
    network = widened(stages, copies)
    drawn = draw_masks(network, p, seed)
    return _fill(network, stages, copies, p, drawn, every_copy)


def _check(stages: Sequence[Stage], copies: Sequence[int], p: Sequence[float]) -> None:
    enough = weak_copies([int(needed.sum()) for needed in needed_weights(stages[1:])], p, 0.01)
    if len(copies) != len(stages) or copies[-1] != 1:
        raise UserError(f"copies={list(copies)}: must be {len(stages)} numbers, the last 1; {enough} would do")
    for layer, number in enumerate(copies):
        if number < 1:
            raise UserError(f"copies={list(copies)}: layer {layer} must have 1 or more; {enough[layer]} would do")


def _fill(
    network: nn.Sequential, stages: list[Stage], copies: Sequence[int], p: Sequence[float], drawn: Masks, every: bool
) -> Ticket:
    modules, masks = prunable_modules(network), {}
    live = torch.ones(stages[0].weight.shape[1], 1, dtype=torch.bool)  # [inputs, copies]
    for layer, (name, stage) in enumerate(zip(modules, stages, strict=True)):
        blocks = _blocks(drawn[name], stage, copies[layer])
        chosen, missing = represent(stage.weight, blocks, live)
        whole = ~missing.flatten(2).any(2)
        if layer and (not whole.all() if every else not whole.any(1).all()):
            raise _no_representative(layer, missing, whole, stages, p, copies[layer - 1])
        live = whole
        chosen &= live[:, :, None, None, None]
        masks[name] = chosen.reshape(drawn[name].shape)
        weight = stage.weight.reshape(len(stage.weight), 1, stage.weight.shape[1], 1, -1)
        modules[name].weight.data = (weight * chosen).reshape(drawn[name].shape)
        modules[name].bias.data = stage.bias.repeat_interleave(copies[layer])  # type: ignore[union-attr]
    masks = without_dead_ends(masks)
    attach(network, masks)
    enforce(network)
    return Ticket(network, drawn, masks)


def _blocks(mask: Tensor, stage: Stage, copies: int) -> Tensor:
    """The mask by target output, copy, target input, copy, kernel element."""
    outputs, inputs = stage.weight.shape[:2]
    return mask.reshape(outputs, copies, inputs, mask.shape[1] // inputs, -1)


def represent(weight: Tensor, mask: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """One kept edge for each target weight that is not zero, into every copy of its output.

    Args:
        weight: [outputs, inputs, *kernel].
        mask: the drawn edges, [outputs, copies, inputs, their copies, kernel elements].
        live: [inputs, their copies], those that carry what they should.

    Returns:
        The chosen edges, like `mask`, and [outputs, copies, inputs, kernel elements] where one is missing.
    """
    needed = weight.reshape(weight.shape[0], 1, weight.shape[1], -1).ne(0)
    present = mask & live[:, :, None]
    missing = needed & ~present.any(3)
    first = present.byte().argmax(3, keepdim=True)
    chosen = torch.zeros_like(present).scatter_(3, first, (needed & ~missing)[:, :, :, None])
    return chosen, missing


def _no_representative(
    layer: int, missing: Tensor, whole: Tensor, stages: Sequence[Stage], p: Sequence[float], copies: int
) -> NoRepresentative:
    """Names the first target weight that an output without a whole copy lacks, or any if all outputs have one."""
    broken = ~whole.any(1)
    lacking = missing & broken[:, None, None, None] if broken.any() else missing
    out, _, into, _ = (int(place) for place in lacking.nonzero()[0])
    enough = weak_copies([int(needed.sum()) for needed in needed_weights(stages[1:])], p, 0.01)
    return NoRepresentative(layer, out, into, copies, enough[layer - 1])
