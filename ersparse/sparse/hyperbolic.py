"""The hyperbolic step of HAM (Jacobs et al. 2026, Hyperbolic Aware Minimization, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_EXPONENT = 5.0  # that of the released code; the paper has no limit, and large gradients would overflow


@torch.no_grad()
def hyperbolic_step(weights: list[Tensor], gradients: list[Tensor], lr: float, alpha: float, beta: float) -> None:
    """Multiply weights in place by `exp(−lr (α sign(w) ∇ + β))`, after an optimizer has stepped.

    A weight whose gradient would move it towards zero shrinks, one that would move away grows; zeros stay zero. With
    α = β = 0 the weights stay bit for bit the same.

    Args:
        weights: weights after the optimizer's step, of any shapes.
        gradients: the gradients ∇ of that step, taken at the weights before it, in the same shapes.
        lr: learning rate of the step.
        alpha: strength of the hyperbolic geometry, at least 0.
        beta: constant decay, at least 0.
    """
    exponents = torch._foreach_sign(weights)
    torch._foreach_mul_(exponents, gradients)
    torch._foreach_mul_(exponents, -lr * alpha)
    torch._foreach_sub_(exponents, lr * beta)
    torch._foreach_clamp_min_(exponents, -LARGEST_EXPONENT)
    torch._foreach_clamp_max_(exponents, LARGEST_EXPONENT)
    torch._foreach_exp_(exponents)
    torch._foreach_mul_(weights, exponents)
