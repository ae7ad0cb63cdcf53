"""Loss scaling of precision 16-mixed: whether gradients overflowed, so that the scaler skips the optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:  # optimizers are checked in runs that draw only, which do not wait for Lightning
    import pytorch_lightning as pl


def overflowed_before_step(trainer: pl.Trainer, optimizer: Optimizer) -> bool:
    """Return whether the scaler will skip the step that follows; False without a scaler.

    The gradients are divided by the scale, if the optimizer would do so in its step. The scaler has then recorded
    whether they are finite, and does not miss them if they are taken away before the step.
    """
    from lightning_fabric.plugins.precision.amp import _optimizer_handles_unscaling

    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return False
    if _optimizer_handles_unscaling(optimizer):
        scaler.unscale_(optimizer)
    return any(map(bool, scaler._found_inf_per_device(optimizer).values()))


def overflowed_in_step(optimizer: Optimizer) -> bool:
    """Return in a post-hook of a step whether a fused optimizer has skipped it; the scaler calls no other kind then."""
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)
