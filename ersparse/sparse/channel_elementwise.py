"""Rules of channel tracing for operations on each element: sums, products, activations, and constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.channel_call import Call, Unsupported, labels_of
from ersparse.sparse.channel_labels import CONSTANT, GraphBuilder, plus_constant

SAME = {
    "clone", "_to_copy", "contiguous", "detach", "alias", "lift_fresh", "_conj", "prelu",
    "_prelu_kernel", "rrelu_with_noise", "_neg_view",
}  # fmt: skip
SUMS = {"add", "sub", "rsub", "maximum", "minimum", "fmax", "fmin", "hypot", "logaddexp"}
PRODUCTS = {"mul", "div", "true_divide"}
CONSTANTS = {
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_zeros",
    "new_ones", "new_full", "bernoulli", "uniform", "normal", "exponential", "fill", "zero", "eq", "ne", "lt", "le",
    "gt", "ge", "logical_and", "logical_or", "logical_not", "sign", "sgn", "floor", "ceil", "round", "trunc",
    "new_empty_strided",
}  # fmt: skip


def same(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of the first argument."""
    return call.first


def constant(call: Call, builder: GraphBuilder) -> Tensor:
    """Return constants: values that have no gradient, such as comparisons, and tensors that are new or random."""
    shape: Any = call["size"] if call["size"] is not None else call.first.shape
    others = [value.shape for value in call.arguments.values() if isinstance(value, Tensor)]
    return torch.tensor(CONSTANT).expand(shape if call["size"] is not None else _broadcast(*others))


def pointwise(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a function of one tensor: a constant is added if the function of zero is not zero."""
    tensors = [name for name, value in call.arguments.items() if isinstance(value, Tensor)]
    if len(tensors) != 1:
        raise Unsupported(f" of {len(tensors)} tensors")
    values = {**call.arguments, tensors[0]: torch.zeros(())}
    if call.operation._schema.is_mutable:
        values[tensors[0]] = torch.zeros(1)
    of_zero = call.operation(**values)
    if of_zero.dtype == torch.bool:
        return constant(call, builder)
    labels = call.labels(tensors[0])
    return plus_constant(labels) if of_zero != 0 else labels


def added(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a sum, or of the larger or smaller of two tensors."""
    return builder.sum_of(call.first, call.labels("other"))


def product(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a product or a quotient."""
    return builder.product_of(call.first, call.labels("other"))


def power(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a power."""
    base, exponent = list(call.arguments.values())[:2]
    if isinstance(base, Tensor) and isinstance(exponent, Tensor):
        return builder.product_of(labels_of(base), labels_of(exponent))
    return pointwise(call, builder)


def sum_with_product(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a tensor to which a product or a quotient is added."""
    product = builder.product_of(call.labels("tensor1"), call.labels("tensor2"))
    return builder.sum_of(call.first, product)


def interpolated(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a linear interpolation between two tensors."""
    ends = builder.sum_of(call.first, call.labels("end"))
    weight = call.labels("weight")
    return builder.sum_of(ends, builder.product_of(ends, weight)) if isinstance(call["weight"], Tensor) else ends


def chosen(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of elements that come from one of two tensors, as a condition says that is not known here."""
    if "self" not in call.arguments:
        raise Unsupported
    return builder.sum_of(call.labels("self"), call.labels("other"))


def replaced(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of elements set to a constant where a mask says so, which is not known here."""
    return call.first.expand(_broadcast(call.first.shape, call["mask"].shape))


def copied(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a tensor that another one is copied into."""
    return call.labels("src").expand(call.first.shape)


def gated(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a gated linear unit: a half of the channels times the sigmoid of the other half."""
    values, gates = call.first.chunk(2, -1 if call["dim"] is None else call["dim"])
    return builder.product_of(values, plus_constant(gates))


def dropped(call: Call, builder: GraphBuilder) -> tuple[Tensor, Tensor]:
    """Return the labels of dropout: those of its input, and of its mask."""
    return call.first, torch.tensor(CONSTANT).expand(call.first.shape)


def log_sigmoid(call: Call, builder: GraphBuilder) -> tuple[Tensor, Tensor]:
    """Return the labels of the logarithm of the sigmoid, and of its buffer."""
    return plus_constant(call.first), torch.tensor(CONSTANT)


def _broadcast(*shapes: Sequence[int]) -> torch.Size:
    return torch.Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
