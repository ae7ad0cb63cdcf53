"""The tensor class of mask buffers: boolean, and nothing special but in an average of networks.

`torch.optim.swa_utils.AveragedModel`, Lightning's `WeightAveraging` and the averages of other packages treat a buffer
like a parameter: they subtract, interpolate and copy it. On boolean tensors PyTorch refuses such arithmetic. A mask
computes with 0 and 1 instead, and a result that is written into a mask keeps the weights where it is not zero: the mask
of an average is the union of the masks, as the average of weights is not zero on the union of their supports.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integer type by the size of a weight in bytes
ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div", "lerp", "addcmul", "addcdiv"})
SAME = frozenset({"detach", "to", "cpu", "cuda", "clone", "contiguous", "empty_like", "pin_memory"})
DATA = Tensor.data.__get__  # type: ignore[attr-defined]


class MaskBuffer(Tensor):
    """A boolean buffer that averages of networks can treat like a parameter.

    It pickles as a plain tensor, so checkpoints and files of a state dict contain nothing but plain tensors.

    Attributes:
        owner: weak reference to the module whose removed weights are set to zero whenever the mask is overwritten by
            `copy_`, and the name of the weight; None before `bind`. An average that copies masks but averages weights
            (`AveragedModel` without use_buffers) is then never denser than its mask.
    """

    owner: tuple[weakref.ref[nn.Module], str] | None

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            if operation(name) in ARITHMETIC:
                return _on_numbers(func, name, args, kwargs or {})
            result = func(*args, **(kwargs or {}))
            if name == "copy_" and isinstance(args[0], MaskBuffer):
                args[0]._enforce()
            elif (name in SAME or func == DATA) and isinstance(args[0], MaskBuffer):
                return args[0]._like(result)
            return result

    def bind(self, module: nn.Module, key: str) -> None:
        """Set removed entries of the weight `key` of `module` to zero whenever this mask is overwritten by `copy_`."""
        self.owner = (weakref.ref(module), key)

    def _enforce(self) -> None:
        reference, key = getattr(self, "owner", None) or (lambda: None, "")
        module = reference()
        weight = module._parameters.get(key) if module is not None else None
        mask = module._buffers.get(f"{key}_mask") if module is not None else None
        if weight is not None and mask is not None and weight.device == mask.device:
            zero_removed(weight.detach(), mask)

    def _like(self, result: Any) -> Any:
        """Return `result` as a mask of the same module, if it is a boolean tensor of the same shape."""
        if not isinstance(result, Tensor) or result.dtype != torch.bool or result.shape != self.shape:
            return result
        mask = as_mask_buffer(result)
        mask.owner = getattr(self, "owner", None)
        return mask

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskBuffer:
        copied = as_mask_buffer(plain(self).clone(memory_format=torch.preserve_format))
        memo[id(self)] = copied
        reference, key = getattr(self, "owner", None) or (lambda: None, "")
        module = memo.get(id(reference()))  # of a copy of the module, which is copied at the moment
        if isinstance(module, nn.Module):
            copied.bind(module, key)
        return copied

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return plain(self).__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


def operation(name: str) -> str:
    """Return the name of an operation without its form: "sub" of `sub_`, `__isub__` and `_foreach_sub`."""
    name = name.strip("_").removeprefix("foreach_")
    return name[1:] if name[:1] == "i" and name[1:] in ARITHMETIC else name


def _on_numbers(func: Callable[..., Any], name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Compute with 0.0 and 1.0, and write the result of an operation in place where it is not zero."""
    numbers = [_as_numbers(argument) for argument in args]
    result = func(*numbers, **{key: _as_numbers(value) for key, value in kwargs.items()})
    if name.startswith("__i") or (name.endswith("_") and not name.endswith("__")):
        for mask, number in zip(_listed(args[0]), _listed(numbers[0]), strict=True):
            if isinstance(mask, MaskBuffer):
                mask.copy_(number)
        return args[0]
    return result


def _as_numbers(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_as_numbers(item) for item in value]
    return plain(value).float() if isinstance(value, MaskBuffer) else value


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def as_mask_buffer(mask: Tensor) -> MaskBuffer:
    """Return a boolean tensor as a mask buffer with the same memory."""
    buffer: MaskBuffer = Tensor._make_subclass(MaskBuffer, mask)
    buffer.owner = None
    return buffer


def plain(mask: Tensor) -> Tensor:
    """Return `mask` as an ordinary tensor with the same memory."""
    if type(mask) is Tensor:
        return mask
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor._make_subclass(Tensor, mask)


def zero_removed(weight: Tensor, mask: Tensor) -> None:
    """Set `weight` to +0.0 where `mask` is False, by multiplying its bits, as integers, by 0 or 1.

    This runs on gradients in every backward pass, and on weights after every optimizer step. On a CPU, NumPy does it
    in one pass and without a copy, in less than half the time of `torch.where`.
    """
    bits, mask = _bits(weight, mask)
    if bits.device.type == "cpu":
        np.multiply(bits.numpy(), mask.numpy(), out=bits.numpy())
    else:
        bits.mul_(mask)


def zero_all_removed(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """Apply `zero_removed` to every weight and its mask; on GPUs by one call for all, which costs the host less."""
    if any(weight.device.type == "cpu" for weight in weights):
        for weight, mask in zip(weights, masks, strict=True):
            zero_removed(weight, mask)
    elif weights:
        pairs = [_bits(weight, mask) for weight, mask in zip(weights, masks, strict=True)]
        torch._foreach_mul_([bits for bits, _ in pairs], [mask for _, mask in pairs])


def _bits(weight: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight as integers, in the same memory, and a mask that can be multiplied with them."""
    size = weight.element_size()
    if size not in BITS:  # complex128: two numbers
        return torch.view_as_real(weight).view(torch.int64), plain(mask)[..., None]
    return weight.view(BITS[size]), plain(mask)
