"""Whether layers compute with the weights that they store, so that removing a weight has an effect.

A weight may be computed from other tensors, by weight_norm or another parametrization. Or the forward pass of a layer
may transform it, as weight standardisation does, which turns zeros into other numbers. `ersparse.sparse.weight_memory`
has the reasons that lie in how a weight is stored.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from ersparse.sparse.layers import EMBEDDINGS, PrunableWeight, prunable_weights
from ersparse.sparse.weight_memory import unusable_memory

UNUSED_BY_FORWARD = {
    "__init__", "__new__", "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__constants__",
    "__parameters__", "__orig_bases__", "__abstractmethods__", "__init_subclass__", "__repr__", "extra_repr",
    "reset_parameters", "_get_name", "__static_attributes__", "__firstlineno__",
}  # fmt: skip
LINEAR_OPERATIONS = ("conv", "linear", "matmul", "mm", "einsum", "lstm", "gru", "rnn", "attention", "embedding")


def unusable_weight(module: nn.Module, names: Collection[str]) -> str | None:
    """Return which of the weights `names` of `module` cannot be masked, and why, in one line; None if all can.

    A layer whose class has a forward pass of its own is tried on a copy in which half of the weight is zero. It is
    refused if the weight that arrives in a convolution, a product of matrices, a recurrence, attention or an embedding
    has fewer zeros. Classes that pad, cast, scale or count beside that pass; so does a layer that cannot be called with
    one input.
    """
    seen: dict[int, dict[str, Tensor]] = {}
    for name, held in prunable_weights(module, embeddings=True).items():
        if name not in names:
            continue
        if held.parameter is None:
            return (
                f"{name} is computed from other tensors, must be a parameter; take weight_norm, torch.nn.utils.prune "
                "or the parametrization off first, or leave the layer out (exclude)"
            )
        if reason := unusable_memory(name, held, seen):
            return reason
        if not computes_as_base(held.module) and _fills_zeros(held):
            kind = type(held.module).__name__
            return f"{name} is transformed by the forward pass of {kind}, so removed weights would not be zero there"
    return None


def computes_as_base(module: nn.Module) -> bool:
    """Return whether a module computes what its base class in `torch.nn` does, although it may be a subclass.

    It does if neither the instance nor a subclass replaces an attribute of the base, except those that build, reset or
    describe a module. Own attributes beside them have no effect on the base's `forward`.
    """
    classes = type(module).__mro__
    base = next(kind for kind in classes if kind.__module__.startswith("torch.nn."))
    if base is nn.Module or "forward" in vars(module):
        return False
    replaceable = set(dir(base)) | {"weight", "bias", "__getattribute__"}
    subclasses = classes[: classes.index(base)]
    replaced = {name for kind in subclasses for name in vars(kind) if name in replaceable}
    return replaced <= UNUSED_BY_FORWARD


class _WatchedWeight(TorchFunctionMode):
    """Compares the weights of linear operations with the stored one.

    Args:
        size: number of weights.
        nonzero: how many of the stored ones are not zero, at most.
    """

    def __init__(self, size: int, nonzero: int) -> None:
        super().__init__()
        self.size, self.nonzero = size, nonzero
        self.filled: bool = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = getattr(function, "__name__", "")
        if any(part in operation for part in LINEAR_OPERATIONS):
            for value in [*args, *kwargs.values()]:
                for tensor in value if isinstance(value, (list, tuple)) else [value]:
                    self._compare(tensor)
        return function(*args, **kwargs)

    def _compare(self, tensor: Any) -> None:
        """Compare the number of zeros, since a layer may use its weight transposed or reshaped."""
        if isinstance(tensor, Tensor) and tensor.numel() == self.size:
            with torch._C.DisableTorchFunction():
                self.filled = self.filled or int(tensor.count_nonzero()) > self.nonzero


@torch.no_grad()
def _fills_zeros(held: PrunableWeight) -> bool:
    """Return whether zeros of the weight are others where a copy of the module computes with them."""
    random = torch.Generator().manual_seed(0)
    try:
        module = _filled_copy(held.module, random)
        size = getattr(module, held.key).numel()
        removed = torch.randperm(size, generator=random)[: (size + 1) // 2]
        for weight in module.parameters(recurse=False):
            if weight.numel() == size:  # a bias may have as many elements, and passes for the weight
                weight.view(-1)[removed] = 0
        with _WatchedWeight(size, size // 2) as watched:
            module(*_example(module, size, random))
    except Exception:  # the module's own code, which may take other arguments
        return False
    filled: bool = watched.filled
    return filled


def _filled_copy(module: nn.Module, random: torch.Generator) -> nn.Module:
    """Return a copy on the CPU, in float32, with normal weights: those given may be on the meta device."""
    copied = copy.deepcopy(module).to_empty(device="cpu").float().eval()
    for tensor in copied.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(generator=random)
    return copied


def _example(module: nn.Module, size: int, random: torch.Generator) -> list[Tensor]:
    """Return small inputs whose number of elements is not `size`, or they would be taken for the weight."""

    def normal(*shape: int) -> Tensor:
        batch = 2 if 2 * torch.Size(shape).numel() != size else 3
        return torch.randn(batch, *shape, generator=random)

    if isinstance(module, EMBEDDINGS):
        return [torch.zeros(1, 1, dtype=torch.int64)]
    if isinstance(module, nn.MultiheadAttention):
        query = normal(1, module.embed_dim)
        if module.in_proj_weight is not None:  # used in one piece where query, key and value are the same
            return [query] * 3
        return [query, normal(1, module.kdim), normal(1, module.vdim)]
    if isinstance(module, nn.RNNBase):
        return [normal(1, module.input_size)]
    if isinstance(module, nn.RNNCellBase):
        return [normal(module.input_size)]
    if isinstance(module, nn.Bilinear):
        return [normal(module.in1_features), normal(module.in2_features)]
    if isinstance(module, nn.Linear):
        return [normal(module.in_features)]
    assert isinstance(module, _ConvNd)
    sides = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return [normal(module.in_channels, *sides)]
