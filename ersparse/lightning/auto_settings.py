"""Resolution of `auto` settings. The result follows from the hardware and the configuration, never from a timing."""

from __future__ import annotations

import logging
import os
import shutil
from typing import Any

import torch
from torch import nn

from ersparse.config.trainer_settings import TrainerSettings
from ersparse.distributed.rendezvous import Rendezvous
from ersparse.errors import UserError

log = logging.getLogger(__name__)

FLOAT32_FROM = 0.99  # sparsity from which sparse execution stores float32 (docs/paper.md, "Trained cells")


def resolve(settings: TrainerSettings, execution: str = "masked", sparsity: float = 0.0) -> dict[str, Any]:
    """Return accelerator, precision and execution with every `auto` resolved.

    * **accelerator**: GPU if available, otherwise CPU.
    * **precision**: bf16-mixed if the hardware supports bfloat16 natively, otherwise 32-true. A GPU needs compute
      capability 8, a CPU AVX512-BF16 or AMX: with these it shortened a training step by an eighth (resnet20 on digits)
      to a half (vgg16) (benchmarks/README.md); without, bfloat16 is emulated, and slow. Sparse execution of networks
      from sparsity 0.99 on takes 32-true: whether bfloat16 costs accuracy there is not settled.
    * **execution**: `execution` on a CPU, masked on a GPU, and masked if the sparse kernels cannot be compiled.

    Args:
        settings: settings of the trainer.
        execution: what `execution=auto` means on a CPU with a compiler, which depends on the method and the densities
            (`ersparse.runs.planner`).
        sparsity: nominal sparsity of the network that training starts from, in [0, 1).

    Raises:
        UserError: the hardware or its software lacks what a setting asks for.
    """
    accelerator = _accelerator(settings)
    precision = _precision(settings, accelerator)
    if settings.execution != "auto":
        execution = settings.execution
    elif accelerator != "cpu":
        execution = "masked"
    if execution == "sparse":
        if accelerator != "cpu":
            raise UserError(
                "trainer.execution=sparse: needs trainer.accelerator=cpu; must be auto, masked or compiled on a GPU"
            )
        if settings.precision == "auto" and round(sparsity, 3) >= FLOAT32_FROM:
            precision = "32-true"
        execution = _sparse_or_masked(settings.execution, "bfloat16" if precision == "bf16-mixed" else "float")
    if execution == "graphed":
        _check_graphed(settings, accelerator, precision)
    if execution == "compiled" and accelerator == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError(
            "trainer.execution=compiled: needs a C++ compiler on a CPU, g++ or what CXX names; must be auto or masked"
        )
    return {"accelerator": accelerator, "precision": precision, "execution": execution}


def _check_graphed(settings: TrainerSettings, accelerator: str, precision: str) -> None:
    """Check that training steps can be recorded as CUDA graphs.

    Raises:
        UserError: they cannot; the first reason is named.
    """
    reasons = {
        "needs a GPU of CUDA": accelerator != "gpu",
        "needs trainer.devices=1": settings.ranks > 1,
        "needs trainer.accumulate=1, as every replay overwrites the gradients": settings.accumulate > 1,
        "needs trainer.precision=bf16-mixed or 32-true": precision == "16-mixed",
        "needs trainer.detect_anomaly=false": settings.detect_anomaly,
    }
    for reason in [reason for reason, holds in reasons.items() if holds]:
        raise UserError(f"trainer.execution=graphed: {reason}; must be auto, masked or compiled")


def _accelerator(settings: TrainerSettings) -> str:
    """Return "cpu", "gpu", or "mps" (Apple's GPU, if asked for), and check that `trainer.devices` are there."""
    number_gpus_by_bus()
    gpus = torch.cuda.device_count()
    accelerator = str(settings.accelerator)
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    if accelerator == "gpu" and not gpus:
        raise UserError("trainer.accelerator=gpu: there is no GPU here; must be auto or cpu")
    if accelerator == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("trainer.accelerator=mps: there is no Apple GPU here; must be auto or cpu")
        if settings.ranks > 1:
            raise UserError(f"trainer.devices={settings.devices}: must be 1 with trainer.accelerator=mps")
        return accelerator
    if accelerator == "gpu" and sees_own_gpu_only(settings):
        return accelerator
    available = gpus if accelerator == "gpu" else os.cpu_count() or 1
    if settings.devices > available:
        kind = "GPUs" if accelerator == "gpu" else "cores, one for each rank"
        raise UserError(
            f"trainer.devices={settings.devices}: must lie in [1, {available}], this machine has {available} {kind}"
        )
    return accelerator


def first_device(settings: TrainerSettings) -> torch.device:
    """Return the device of rank 0, for resolved settings."""
    return torch.device("cuda", 0) if settings.accelerator == "gpu" else torch.device("cpu")


def number_gpus_by_bus() -> None:
    """Let CUDA number GPUs by their PCI bus, as nvidia-smi does, and not by their speed.

    Lightning does so as well, but in the middle of a run. Where cards differ, rank 0, which may have used CUDA before,
    would mean another card by a number than ranks that are started later.
    """
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"


def sees_own_gpu_only(settings: TrainerSettings) -> bool:
    """Return whether this process is one of several tasks on its node, to each of which the cluster has bound a GPU."""
    return settings.devices > 1 and Rendezvous.here() is not None and torch.cuda.device_count() == 1


def _precision(settings: TrainerSettings, accelerator: str) -> str:
    if accelerator == "mps" and settings.precision == "auto":
        return "32-true"
    if settings.precision == "16-mixed" and accelerator == "cpu":
        raise UserError("trainer.precision=16-mixed: must be one of auto, 32-true, bf16-mixed on a CPU")
    if settings.precision != "auto":
        return str(settings.precision)
    native = _gpu_has_bfloat16() if accelerator == "gpu" else _cpu_has_bfloat16()
    return "bf16-mixed" if native else "32-true"


def _sparse_or_masked(requested: str, storage: str) -> str:
    """Return "sparse" if its kernels can be compiled, otherwise "masked"; results agree up to rounding.

    Args:
        requested: the setting `trainer.execution`; a warning is logged if it is "sparse" and not possible.
        storage: number format of activations, "float" or "bfloat16".
    """
    from ersparse.kernels.compile import KernelsUnavailable, library

    try:
        library("float", storage)
    except KernelsUnavailable as reason:
        if requested == "sparse":
            log.warning("trainer.execution=sparse: masked instead, %s", reason)
        return "masked"
    return "sparse"


def memory_format(network: nn.Module) -> torch.memory_format:
    """Return the memory format for training on a CPU: channels-last, which is faster, where it is safe.

    On x86 with AVX-512, oneDNN (torch 2.15) writes past its buffers in a strided 1x1 convolution of fewer than 16 input
    channels in channels-last format. Narrow residual networks, which have such shortcuts, crash.
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
