"""Weights that are computed from trained parts: products of two factors, soft thresholds, and the largest of a tensor.

A rule splits a weight into parts of the same shape (or, for a threshold, a scalar), merges parts into the weight, and
turns the gradient of the weight into those of its parts. A network therefore trains and evaluates plain weights, and
only the optimizer sees the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ersparse.sparse.rewiring import magnitude
from ersparse.sparse.topk import topk_mask

Parts = tuple[Tensor, ...]


class Rule(Protocol):
    """How a weight is computed from trained parts.

    Attributes:
        parts: the number of parts.
    """

    parts: ClassVar[int]

    def split(self, weight: Tensor) -> Parts:
        """Return parts whose `merge` is `weight`, or, for a threshold, close to it."""

    def merge(self, *parts: Any) -> Tensor:
        """Return the weight."""

    def gradients(self, gradient: Tensor, *parts: Any) -> Parts:
        """Return the gradients of the parts, given that of the weight."""


@dataclass(frozen=True)
class Product:
    """The product θ = m w of two factors whose inner scale is m² − w² = β (Gadhikar et al. 2025; Jacobs et al. 2025).

    Gradient flow on the factors keeps the inner scale, and moves the weight by dθ/dt = −(m² + w²) ∇ with
    m² + w² = √(β² + 4 θ²). With β = 1 a weight near zero moves as without factors, with β = 0 it stops there.

    Attributes:
        scale: β, at least 0. With 0 the factors are balanced, |m| = |w| = √|θ|.
    """

    parts: ClassVar[int] = 2

    scale: float

    def split(self, weight: Tensor) -> Parts:
        first = ((self.scale + (self.scale**2 + 4 * weight**2).sqrt()) / 2).sqrt()
        return first, torch.where(first > 0, weight / first, 0.0)

    def merge(self, first: Tensor, second: Tensor) -> Tensor:
        return first * second

    def gradients(self, gradient: Tensor, first: Tensor, second: Tensor) -> Parts:
        return gradient * second, gradient * first


@dataclass(frozen=True)
class SoftThreshold:
    """The soft threshold θ = sign(v) max(|v| − σ(s), 0) with one trained s for each layer (STR, Kusupati et al. 2020).

    Attributes:
        initial: s at the start; σ is the sigmoid.
    """

    parts: ClassVar[int] = 2

    initial: float

    def split(self, weight: Tensor) -> Parts:
        return weight.clone(), torch.full((1,), self.initial, dtype=weight.dtype, device=weight.device)

    def merge(self, first: Tensor, second: Tensor) -> Tensor:
        return first.sign() * (first.abs() - second.sigmoid()).clamp_min(0)

    def gradients(self, gradient: Tensor, first: Tensor, second: Tensor) -> Parts:
        threshold = second.sigmoid()
        through = gradient * (first.abs() > threshold)
        return through, -(through * first.sign()).sum() * threshold * (1 - threshold)


@dataclass(frozen=True)
class LargestOf:
    """The largest entries of a trained tensor, the others being zero; entries beside the largest are trained as well.

    The forward set A has the `forward` largest entries, and the backward set B the `backward` largest (Top-KAST,
    Jayakumar et al. 2020). The gradient of the weight passes to the entries of B as it is, plus λ θ in A and λ θ / D
    in the rest of B, where D is the density of A: that of λ/2 Σ θ², by which entries that are not used shrink faster.
    Entries outside B have no gradient.

    Attributes:
        forward: number of entries of A.
        backward: number of entries of B, at least that of A.
        decay: λ.
    """

    parts: ClassVar[int] = 1

    forward: int
    backward: int
    decay: float

    def split(self, weight: Tensor) -> Parts:
        return (weight.clone(),)

    def merge(self, values: Tensor) -> Tensor:
        return torch.where(_largest(values, self.forward), values, 0.0)

    def gradients(self, gradient: Tensor, values: Tensor) -> Parts:
        used = _largest(values, self.forward)
        shrinking = self.decay * torch.where(used, values, values * (values.numel() / self.forward))
        return (torch.where(_largest(values, self.backward), gradient + shrinking, 0.0),)


def _largest(values: Tensor, count: int) -> Tensor:
    return topk_mask(magnitude(values), count)[0]
