"""Modules that wrap a network: DataParallel, DDP, torch.compile, averages, Fabric. Their prefixes name no layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ersparse.errors import UserError

# name of the attribute that holds the wrapped module, by class; names, so that nothing has to be imported
WRAPPED_IN = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper": "_checkpoint_wrapped_module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "lightning_fabric.wrappers._FabricModule": "_forward_module",
    "lightning.fabric.wrappers._FabricModule": "_forward_module",
    "timm.utils.model_ema.ModelEmaV2": "module",
    "timm.utils.model_ema.ModelEmaV3": "module",
}
SHARDING = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"


def wrapped_in(module: nn.Module) -> str | None:
    """Return the name of the attribute that holds the module that `module` wraps; None if it is no wrapper."""
    for kind in type(module).__mro__:
        if name := WRAPPED_IN.get(f"{kind.__module__}.{kind.__qualname__}"):
            return name
    return None


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside all wrappers around `module`, or `module` itself."""
    while name := wrapped_in(module):
        module = getattr(module, name)
    return module


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of `module.named_modules()` that are no wrappers, by their names without wrappers' prefixes."""
    bare: dict[str, str] = {}
    wrappers: dict[str, str] = {}
    for name, child in module.named_modules():
        parent, _, own = name.rpartition(".")
        if name and wrappers.get(parent) == own:
            bare[name] = bare[parent]
        else:
            bare[name] = f"{bare[parent]}.{own}" if parent and bare[parent] else own
        if inner := wrapped_in(child):
            wrappers[name] = inner
        else:
            yield bare[name], child


@contextmanager
def eager(network: nn.Module) -> Iterator[None]:
    """Take wrappers inside `network` off and switch `Module.compile` off, for a trace of its operations."""
    parents = list(network.modules())
    parts = [(parent, key, child) for parent in parents for key, child in parent._modules.items() if child is not None]
    compiled = {module: module._compiled_call_impl for module in parents}
    try:
        for parent, key, child in parts:
            parent._modules[key] = unwrapped(child)
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for parent, key, child in parts:
            parent._modules[key] = child
        for module, implementation in compiled.items():
            module._compiled_call_impl = implementation


def check_not_sharded(module: nn.Module) -> None:
    """Check that all parameters of `module` are whole, since a mask has the shape of the whole weight.

    Raises:
        UserError: a parameter is a DTensor, as `fully_shard` and tensor parallelism make them, or a module is a
            FullyShardedDataParallel.
    """
    for child in module.modules():
        if any(f"{kind.__module__}.{kind.__qualname__}" == SHARDING for kind in type(child).__mro__):
            raise UserError(
                f"module={type(module).__name__}: is sharded over devices (FullyShardedDataParallel), must be whole; "
                "use DistributedDataParallel"
            )
    for name, parameter in module.named_parameters():
        if any(kind.__name__ == "DTensor" for kind in type(parameter).__mro__):
            raise UserError(
                f"module={type(module).__name__}: {name} is sharded over devices (DTensor), must be whole; use "
                "DistributedDataParallel"
            )
