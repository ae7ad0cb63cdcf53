"""What `auto` means on this machine. It follows from the processor and the settings, never from a timing."""

from __future__ import annotations

import logging
import os
import shutil
from typing import Any

import torch
from torch import nn

from ersparse.config.schema import TrainerSettings
from ersparse.errors import UserError

log = logging.getLogger(__name__)


def resolve(settings: TrainerSettings, execution: str = "masked") -> dict[str, Any]:
    """accelerator, precision and execution with every `auto` decided.

    Args:
        execution: what `auto` is on a CPU with a compiler, where the method and the densities have a say
            (`ersparse.runs.plan`).

    On a GPU bfloat16 where it is native (compute capability 8 or more). On a CPU bfloat16 where there are instructions
    for it (AVX512-BF16 or AMX): there it took between an eighth (resnet20 on digits) and a half (vgg16) off a training
    step, and made none slower (benchmarks/README.md); elsewhere it is emulated, and slow.

    Raises:
        UserError: more devices are asked for than there are, or a GPU where there is none.
    """
    gpus = torch.cuda.device_count()
    accelerator = settings.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and not gpus:
        raise UserError("trainer.accelerator=gpu: there is no GPU here; must be auto or cpu")
    there = gpus if accelerator == "gpu" else os.cpu_count() or 1
    if settings.devices > there:
        kind = "GPUs" if accelerator == "gpu" else "cores, one for each rank"
        raise UserError(
            f"trainer.devices={settings.devices}: must lie in [1, {there}], this machine has {there} {kind}"
        )
    precision = settings.precision
    if precision == "16-mixed" and accelerator == "cpu":
        raise UserError("trainer.precision=16-mixed: must be one of auto, 32-true, bf16-mixed on a CPU")
    if precision == "auto":
        native = _gpu_has_bfloat16() if accelerator == "gpu" else _cpu_has_bfloat16()
        precision = "bf16-mixed" if native else "32-true"
    if settings.execution != "auto":
        execution = settings.execution
    elif accelerator == "gpu":
        execution = "masked"
    if execution == "sparse":
        if accelerator == "gpu":
            raise UserError(
                "trainer.execution=sparse: needs trainer.accelerator=cpu; must be auto, masked or compiled on a GPU"
            )
        execution = _sparse_or_masked(settings.execution, "bfloat16" if precision == "bf16-mixed" else "float")
    if execution == "compiled" and accelerator == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError(
            "trainer.execution=compiled: needs a C++ compiler on a CPU, g++ or what CXX names; must be auto or masked"
        )
    return {"accelerator": accelerator, "precision": precision, "execution": execution}


def _sparse_or_masked(asked: str, stored: str) -> str:
    """Sparse where its kernels can be compiled; the results are the same, but for rounding."""
    from ersparse.kernels.compile import KernelsUnavailable, library

    try:
        library("float", stored)
    except KernelsUnavailable as reason:
        if asked == "sparse":
            log.warning("trainer.execution=sparse: masked instead, %s", reason)
        return "masked"
    return "sparse"


def memory_format(network: nn.Module) -> torch.memory_format:
    """Channels-last, which is faster on CPUs and GPUs alike, where it is safe.

    On x86 with AVX-512, oneDNN (torch 2.15) writes past its buffers in a strided 1x1 convolution of fewer than 16 input
    channels in that layout: found as crashes of narrow residual networks, whose shortcuts are such.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if any(set(c.kernel_size) == {1} and max(c.stride) > 1 and c.in_channels < 16 for c in convolutions):
        return torch.contiguous_format
    return torch.channels_last


def _gpu_has_bfloat16() -> bool:
    return torch.cuda.get_device_capability()[0] >= 8


def _cpu_has_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
