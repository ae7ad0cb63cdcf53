"""The optimizer Lion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lion(Optimizer):
    """Lion (Chen et al. 2023, Algorithm 2): the sign of an interpolated momentum, with decoupled weight decay.

    With momentum m and gradient g a step is `w ← w − lr (sign(β₁ m + (1 − β₁) g) + λ w)`, `m ← β₂ m + (1 − β₂) g`.

    Args:
        params: parameters or groups of parameters.
        lr: learning rate; a third to a tenth of AdamW's.
        betas: β₁ and β₂.
        weight_decay: λ; three to ten times AdamW's.
    """

    elementwise: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={list(betas)}: must lie in [0, 1)")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step, after evaluating `closure` if it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if gradients := {p: p.grad for p in group["params"] if p.grad is not None}:
                self._update(gradients, group["lr"], group["betas"], group["weight_decay"])
        return loss

    def _update(
        self, gradient_of: dict[Tensor, Tensor], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        parameters, gradients = list(gradient_of), list(gradient_of.values())
        for p in parameters:
            if "exp_avg" not in self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        momenta = [self.state[p]["exp_avg"] for p in parameters]
        directions = torch._foreach_lerp(momenta, gradients, 1 - betas[0])
        torch._foreach_sign_(directions)
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_add_(parameters, directions, alpha=-lr)
        torch._foreach_lerp_(momenta, gradients, 1 - betas[1])
