"""Training of parts from which weights are computed (`ersparse.sparse.reparametrization`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ersparse.sparse.reparametrization import Rule


class Reparametrization:
    """The trained parts of a network's weights.

    The forward and backward pass compute with the weights, in every kind of execution and on every number of ranks.
    `set_gradients` then gives the parts their gradients, the optimizer steps the parts, and `merge` computes the
    weights anew. The parts are no parameters of the module, or DDP would wait for their gradients.

    Args:
        rules: how each weight is computed, by its name.

    Attributes:
        parts: by name, once `start` was called; with sparse execution those of the kept weights.
        penalty: strength α of the penalty α (m² + w²) on the parts of each weight.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.rules, self.penalty = rules, 0.0
        self.weights: dict[str, Tensor] = {}
        self.parts: dict[str, list[nn.Parameter]] = {}

    @torch.no_grad()
    def start(self, weights: Mapping[str, Tensor], stored: Mapping[str, Sequence[Tensor]]) -> None:
        """Split the weights into parts, or take over those that a checkpoint stored, and merge."""
        self.weights = {name: weights[name] for name in self.rules}
        for name, weight in self.weights.items():
            split = self.rules[name].split(weight.detach())
            for part, value in zip(split, stored.get(name, ()), strict=False):
                part.copy_(value)
            self.parts[name] = [nn.Parameter(part) for part in split]
        self.merge()

    @torch.no_grad()
    def set_gradients(self, scale: float = 1.0) -> None:
        """Set the gradients of the parts to those of the accumulated gradients of the weights, and of the penalty.

        Args:
            scale: factor by which a gradient scaler has multiplied the loss.
        """
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            parts, unscaled = self.parts[name], weight.grad if scale == 1 else weight.grad / scale
            for part, gradient in zip(parts, self.rules[name].gradients(unscaled, *parts), strict=True):
                part.grad = gradient.reshape(part.shape) if scale == 1 else gradient.reshape(part.shape) * scale
                if self.penalty:
                    part.grad.add_(part, alpha=2 * self.penalty * scale)

    def drop_gradients(self) -> None:
        """Drop the gradients of the weights, which the optimizer does not know."""
        for weight in self.weights.values():
            weight.grad = None

    @torch.no_grad()
    def merge(self) -> None:
        """Compute the weights from their parts."""
        for name, weight in self.weights.items():
            weight.copy_(self.rules[name].merge(*self.parts[name]))

    @torch.no_grad()
    def split_again(self) -> None:
        """Split all weights anew; the weights stay as they are, up to rounding, and so does the optimizer's state."""
        for name, weight in self.weights.items():
            for part, value in zip(self.parts[name], self.rules[name].split(weight), strict=True):
                part.copy_(value)
        self.merge()

    @torch.no_grad()
    def split_changed(self, name: str, changed: Tensor, optimizer: Optimizer) -> None:
        """Split those entries of a weight anew that an update of its mask has changed, without optimizer state.

        Args:
            name: name of the weight.
            changed: mask of the entries.
            optimizer: the optimizer of the parts.
        """
        for part, value in zip(self.parts[name], self.rules[name].split(self.weights[name]), strict=True):
            part.copy_(torch.where(changed, value, part))
            for state in optimizer.state.get(part, {}).values():
                if isinstance(state, Tensor) and state.shape == part.shape:
                    state.masked_fill_(changed, 0.0)
