"""The call of an ATen operation in channel tracing, and the labels of its arguments."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.channel_labels import CONSTANT, ZERO, GraphBuilder
from ersparse.sparse.reachability import Kernels


class Labelled(Tensor):
    """A tensor without values, that has a label for each element instead.

    Attributes:
        labels: the labels, in the shape of the tensor.
        family: weak references to the tensors that share elements with it, itself included.
    """

    labels: Tensor
    family: list[weakref.ref[Labelled]]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, labels: Tensor, dtype: torch.dtype, device: torch.device) -> Labelled:
        """Return a tensor in the shape of `labels`, with this dtype and device."""
        make = Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        labelled: Labelled = make(cls, labels.shape, dtype=dtype, device=device)
        labelled.labels = labels
        labelled.family = [weakref.ref(labelled)]
        return labelled

    def join(self, views: Iterable[Labelled]) -> None:
        """Note that `views` share elements with this tensor."""
        for view in views:
            self.family.extend(view.family)
            view.family = self.family

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError("a tensor of labels was used outside of channel tracing")


class Unsupported(Exception):
    """An operation that channels cannot be followed through; the message says why, or is empty."""


@dataclass(frozen=True)
class Weight:
    """A view of a prunable weight.

    Attributes:
        layer: name of the weight.
        view: a tensor without values, with the strides and the offset of the view.
    """

    layer: str
    view: Tensor


def kernels_of(view: Tensor) -> Kernels:
    """Return the kernels of a view [groups, outputs, inputs, *kernel]."""
    return Kernels(tuple(view.shape), view.stride(), int(view.storage_offset()))


@dataclass(frozen=True)
class Call:
    """A call of an ATen operation.

    Attributes:
        operation: the overload that is called.
        arguments: the arguments by the names of the operation's schema.
        weight_of: returns the prunable weight that a tensor is a view of, or None.
    """

    operation: Any
    arguments: dict[str, Any]
    weight_of: Callable[[Tensor], Weight | None]

    @property
    def name(self) -> str:
        """Name of the operation, without the underscore of operations in place."""
        name: str = self.operation.overloadpacket.__name__
        return name.rstrip("_") if self.operation._schema.is_mutable else name

    @property
    def tensors(self) -> list[Tensor]:
        """The arguments that are tensors, those in lists included."""
        values: list[Any] = []
        for value in self.arguments.values():
            values.extend(value if isinstance(value, list) else [value])
        return [value for value in values if isinstance(value, Tensor)]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments.get(argument)

    def labels(self, argument: str) -> Tensor:
        """Return the labels of an argument; tensors and numbers that do not depend on the input are constants."""
        return labels_of(self[argument])

    @property
    def first(self) -> Tensor:
        """Labels of the first argument."""
        return labels_of(next(iter(self.arguments.values())))


Rule = Callable[[Call, GraphBuilder], Any]


def labels_of(value: Any) -> Tensor:
    """Return the labels of a tensor or a number."""
    if isinstance(value, Labelled):
        return value.labels
    if isinstance(value, Tensor):
        return torch.tensor(CONSTANT).expand(value.shape)
    return torch.tensor(ZERO if value == 0 else CONSTANT)
