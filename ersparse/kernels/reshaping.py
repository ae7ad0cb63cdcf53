"""Sizes, and changes of shape, in a traced network; in memory a change of shape changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx, nn

from ersparse.kernels.calls import FLATTEN_FUNCTIONS
from ersparse.kernels.nodes import Node, NotCovered


class Sizes(NamedTuple):
    """All sizes of a tensor, as `x.shape` returns them.

    Attributes:
        value: the node of the tensor.
        flat: whether the tensor is [B, features].
    """

    value: Node
    flat: bool


class Size(NamedTuple):
    """One size of a tensor, as `x.size(1)` returns it."""

    value: Node
    flat: bool
    axis: int

    def of(self, shapes: Mapping[Node, Sequence[int]]) -> int:
        """Return the number, given the shapes [C, H, W] of all nodes; the axis is not that of the batch."""
        shape = shapes[self.value]
        return math.prod(shape) if self.flat else shape[self.axis - 1]


@dataclass(frozen=True)
class Requirement:
    """What a change of shape requires of the tensor that it changes.

    Attributes:
        name: the operation.
        value: the node of the tensor.
        features: the numbers of one image; None for any.
        single_pixel: whether channels have a single pixel.
    """

    name: str
    value: Node
    features: int | Size | None = None
    single_pixel: bool = False

    def check(self, shapes: Mapping[Node, Sequence[int]]) -> None:
        """Raise `NotCovered` unless the shape [C, H, W] of the tensor is as required."""
        channels, *pixels = shapes[self.value]
        features = self.features.of(shapes) if isinstance(self.features, Size) else self.features
        fits = features in (None, channels * math.prod(pixels))
        if not fits or (self.single_pixel and math.prod(pixels) != 1):
            raise NotCovered(f"{self.name} of {[channels, *pixels]} numbers")


def size_of(node: fx.Node, value: Any, flat: bool) -> Sizes | Size | None:
    """Return what a call that reads the size of a tensor returns, or None for another call.

    Args:
        node: the call.
        value: of its first argument.
        flat: whether that tensor is [B, features].
    """
    if isinstance(value, Sizes) and getattr(node.target, "__name__", "") == "getitem" and isinstance(node.args[1], int):
        return _along(value, node.args[1])
    if not isinstance(value, Node):
        return None
    if node.target is getattr and node.args[1] == "shape":
        return Sizes(value, flat)
    if node.target == "size" and node.op == "call_method":
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return Sizes(value, flat) if axis is None else _along(Sizes(value, flat), axis)
    return None


def reads_size(node: fx.Node) -> bool:
    """Return whether a call reads the size of a tensor rather than its numbers."""
    return bool(
        (node.op == "call_method" and node.target == "size") or (node.target is getattr and node.args[1] == "shape")
    )


def view(name: str, value: Node, sizes: Sequence[Any]) -> tuple[bool, Requirement]:
    """Return whether a view of a tensor with these sizes is [B, features], and what it requires of the tensor.

    Args:
        name: the operation.
        value: the node of the tensor.
        sizes: numbers, -1, or `Size`; the first one is that of the batch.

    Raises:
        NotCovered: the view has another shape than [B, features] and [B, C, 1, 1].
    """
    batch, *rest = sizes
    known = [size for size in rest if size != -1]
    from_batch = isinstance(batch, Size) and batch.axis == 0
    inferred = batch == -1 and len(known) == len(rest)
    if not (from_batch or inferred) or not all(isinstance(size, int | Size) for size in rest):
        raise NotCovered(f"{name} to another shape than [B, features]")
    if len(rest) == 1:
        return True, Requirement(name, value, known[0] if known else None)
    if len(rest) == 3 and rest[1:] == [1, 1]:
        return False, Requirement(name, value, None if rest[0] == -1 else rest[0], single_pixel=True)
    raise NotCovered(f"{name} to another shape than [B, features] and [B, C, 1, 1]")


def _along(sizes: Sizes, axis: Any) -> Size:
    """Return the size of one axis, which may be counted from the last."""
    return Size(sizes.value, sizes.flat, axis % (2 if sizes.flat else 4))


def check_flatten(node: fx.Node, target: Any) -> None:
    """Raise NotCovered unless a call flattens all dimensions but that of the batch."""
    if isinstance(target, nn.Flatten) and (target.start_dim, target.end_dim) != (1, -1):
        raise NotCovered(f"{node.target} (Flatten from dimension {target.start_dim})")
    if target in FLATTEN_FUNCTIONS and (tuple(node.args[1:]), dict(node.kwargs)) not in (
        ((1,), {}), ((1, -1), {}), ((), {"start_dim": 1}),
    ):  # fmt: skip
        raise NotCovered(f"{node.name} (flatten from another dimension than 1)")
