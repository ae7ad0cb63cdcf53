"""Rules of channel tracing: which operations keep channels apart, and what channels their outputs have."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

ELEMENTWISE = (
    nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.modules.dropout._DropoutNd, nn.Identity, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softmax, nn.LogSoftmax,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardtanh, F.softplus, F.softmax,
    F.log_softmax, F.dropout, F.dropout2d, torch.relu, torch.tanh, torch.sigmoid, torch.log_softmax, torch.softmax,
    "relu", "tanh", "sigmoid", "contiguous", "log_softmax", "softmax",
)  # fmt: skip
POOLS = (
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd, nn.Upsample,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool2d, F.interpolate,
)  # fmt: skip
FLATTENS = (nn.Flatten, torch.flatten, "flatten")
RESHAPES = ("view", "reshape", torch.reshape)
MEANS = (torch.mean, "mean")
ADDS = (operator.add, operator.iadd, torch.add)
SCALES = (operator.mul, operator.truediv, *ADDS)
UNUSED_BY_FORWARD = {
    "__init__", "__new__", "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__constants__",
    "__parameters__", "__orig_bases__", "__abstractmethods__", "__init_subclass__", "__repr__", "extra_repr",
    "reset_parameters", "_get_name", "__static_attributes__", "__firstlineno__",
}  # fmt: skip
CATS = (torch.cat, torch.concat, torch.concatenate)


@dataclass(frozen=True)
class Channels:
    """How a tensor is made up of channels.

    Attributes:
        kind: "input" has an unknown shape; "image" is [B, channels, *spatial]; "flat" is [B, channels * pixels];
            "features" is [B, channels]; "output".
        count: number of channels; 0 if unknown.
        spatial: number of spatial dimensions of an image.
    """

    kind: str
    count: int = 0
    spatial: int = 0

    def __str__(self) -> str:
        """Return a description for error messages."""
        kinds = {"input": "the input", "image": "an image", "flat": "a flattened image", "features": "features"}
        return kinds[self.kind] + (f" of {self.count} channels" if self.count else "")


Rule = Callable[[fx.Node, Any, Channels], Channels | None]


def rule_of(operation: Any) -> Rule | None:
    """Return the rule of an operation that passes each channel on to one channel; None if it is not supported.

    A rule is a function (node, operation, channels of the first argument) -> channels of the result, or None if the
    operation does not support these channels or its other arguments.

    Args:
        operation: a module, a function, or the name of a tensor method.
    """
    rules: list[tuple[tuple[Any, ...], Rule]] = [
        (ELEMENTWISE, lambda node, operation, before: before),
        (POOLS, lambda node, operation, before: before if before.kind in ("image", "input") else None),
        (FLATTENS, _after_flatten),
        (RESHAPES, _after_reshape),
        (MEANS, _after_mean),
        (SCALES, lambda node, operation, before: before if _has_scalar_operand(node) else None),
    ]
    return next((rule for members, rule in rules if matches(operation, members)), None)


def args_of(node: fx.Node) -> tuple[Any, ...]:
    """Return the positional arguments of a node, untyped."""
    return node.args


def matches(operation: Any, members: tuple[Any, ...]) -> bool:
    """Return whether a module is an instance of one of `members`, or a function or method name is one of them."""
    if isinstance(operation, nn.Module):
        return isinstance(operation, tuple(member for member in members if inspect.isclass(member)))
    return any(operation == member for member in members)


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


def _after_flatten(node: fx.Node, operation: Any, before: Channels) -> Channels | None:
    """Return the channels after flattening dimensions 1 to -1; None for other dimensions."""
    if isinstance(operation, nn.Flatten):
        dims: dict[str, Any] = {"start_dim": operation.start_dim, "end_dim": operation.end_dim}
    else:
        given = dict(zip(("start_dim", "end_dim"), args_of(node)[1:], strict=False))
        dims = {"start_dim": 0, "end_dim": -1, **given, **node.kwargs}
    if (dims["start_dim"], dims["end_dim"]) != (1, -1):
        return None
    return _flat(before)


def _after_reshape(node: fx.Node, operation: Any, before: Channels) -> Channels | None:
    """Return the channels after `x.view(x.size(0), -1)` or `x.view(-1, n)` with n a multiple of the channels.

    The second form could also move pixels into the batch dimension; networks for image classification do not do so.
    """
    sizes = args_of(node)[1] if len(args_of(node)) == 2 else args_of(node)[1:]
    if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
        return None
    first, second = sizes
    if second == -1 and isinstance(first, fx.Node) and _is_batch_size(first):
        return _flat(before)
    whole = before.kind == "image" and isinstance(second, int) and second > 0 and second % before.count == 0
    if whole and (first == -1 or (isinstance(first, fx.Node) and _is_batch_size(first))):
        return _flat(before)
    return None


def _is_batch_size(node: fx.Node) -> bool:
    """Return whether a node is `x.size(0)`, `x.size()[0]` or `x.shape[0]`."""
    if node.target == "size":
        return len(args_of(node)) == 2 and args_of(node)[1] == 0
    if node.target is not operator.getitem or args_of(node)[1] != 0:
        return False
    sizes = args_of(node)[0]
    whole = sizes.target == "size" and len(args_of(sizes)) == 1
    return whole or (sizes.target is getattr and args_of(sizes)[1] == "shape")


def _flat(before: Channels) -> Channels | None:
    if before.kind in ("flat", "input"):
        return before
    return Channels("flat", before.count) if before.kind == "image" else None


def _after_mean(node: fx.Node, operation: Any, before: Channels) -> Channels | None:
    """Return the channels after a mean over all spatial dimensions; None for other dimensions."""
    dims: Any = args_of(node)[1] if len(args_of(node)) > 1 else node.kwargs.get("dim")
    keep = args_of(node)[2] if len(args_of(node)) > 2 else node.kwargs.get("keepdim", False)
    if before.kind != "image" or dims is None:
        return None
    over = {d % (2 + before.spatial) for d in (dims if isinstance(dims, (tuple, list)) else [dims])}
    if over != set(range(2, 2 + before.spatial)):
        return None
    return before if keep else Channels("features", before.count)


def _has_scalar_operand(node: fx.Node) -> bool:
    return len(args_of(node)) == 2 and isinstance(args_of(node)[1], (int, float)) and not node.kwargs
