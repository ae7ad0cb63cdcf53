"""Weights that are computed from trained parts: products of two factors, and soft thresholds.

A rule splits a weight into parts of the same shape (or, for a threshold, a scalar), merges parts into the weight, and
turns the gradient of the weight into those of its parts by the chain rule. A network therefore trains and evaluates
plain weights, and only the optimizer sees the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Parts = tuple[Tensor, Tensor]


class Rule(Protocol):
    """How a weight is computed from two trained parts."""

    def split(self, weight: Tensor) -> Parts:
        """Return parts whose `merge` is `weight`, or, for a threshold, close to it."""

    def merge(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the weight."""

    def gradients(self, gradient: Tensor, first: Tensor, second: Tensor) -> Parts:
        """Return the gradients of the parts, given that of the weight."""


@dataclass(frozen=True)
class Product:
    """The product θ = m w of two factors whose inner scale is m² − w² = β (Gadhikar et al. 2025; Jacobs et al. 2025).

    Gradient flow on the factors keeps the inner scale, and moves the weight by dθ/dt = −(m² + w²) ∇ with
    m² + w² = √(β² + 4 θ²). With β = 1 a weight near zero moves as without factors, with β = 0 it stops there.

    Attributes:
        scale: β, at least 0. With 0 the factors are balanced, |m| = |w| = √|θ|.
    """

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

    initial: float

    def split(self, weight: Tensor) -> Parts:
        return weight.clone(), torch.full((1,), self.initial, dtype=weight.dtype, device=weight.device)

    def merge(self, first: Tensor, second: Tensor) -> Tensor:
        return first.sign() * (first.abs() - second.sigmoid()).clamp_min(0)

    def gradients(self, gradient: Tensor, first: Tensor, second: Tensor) -> Parts:
        threshold = second.sigmoid()
        through = gradient * (first.abs() > threshold)
        return through, -(through * first.sign()).sum() * threshold * (1 - threshold)
