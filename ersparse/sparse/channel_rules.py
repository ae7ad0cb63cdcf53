"""Rules of channel tracing: what each PyTorch operation does to the labels of its arguments.

A rule is a function (call, builder) -> labels of the results. Operations are those of ATen, into which PyTorch breaks
down all others, so few rules cover many modules: `nn.MultiheadAttention` is matrix products, softmax and views. An
operation without a rule is an error.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ersparse.sparse.channel_call import Call, Rule, Unsupported
from ersparse.sparse.channel_elementwise import (
    CONSTANTS,
    PRODUCTS,
    SAME,
    SUMS,
    added,
    chosen,
    constant,
    copied,
    dropped,
    gated,
    interpolated,
    log_sigmoid,
    pointwise,
    power,
    product,
    replaced,
    same,
    sum_with_product,
)
from ersparse.sparse.channel_layers import FACTORS, bilinear, convolved, embedded, matrix_product
from ersparse.sparse.channel_mixing import NORMS, POOLS, REDUCTIONS, normalised, pooled, reduced, softmax
from ersparse.sparse.channel_movement import MOVED, concatenated, moved

_GROUPS: list[tuple[Iterable[str], Rule]] = [
    (MOVED, moved),
    (("cat",), concatenated),
    (SAME, same),
    (("hardswish", "mish", "threshold", "gelu"), pointwise),  # without the tag
    (SUMS, added),
    (PRODUCTS, product),
    (CONSTANTS, constant),
    (NORMS, normalised),
    (REDUCTIONS, reduced),
    (POOLS, pooled),
    (FACTORS, matrix_product),
    (("convolution", "_convolution"), convolved),
    (("_softmax", "_log_softmax", "_safe_softmax"), softmax),
    (("addcmul", "addcdiv"), sum_with_product),
    (("lerp",), interpolated),
    (("where",), chosen),
    (("masked_fill",), replaced),
    (("copy",), copied),
    (("pow",), power),
    (("glu",), gated),
    (("native_dropout",), dropped),
    (("log_sigmoid_forward",), log_sigmoid),
    (("_trilinear",), bilinear),
    (("embedding",), embedded),
]
RULES: dict[str, Rule] = {name: rule for names, rule in _GROUPS for name in names}


def rule_of(call: Call) -> Rule:
    """Return the rule of the operation that is called.

    Raises:
        Unsupported: there is none.
    """
    if call.name in RULES:
        return RULES[call.name]
    if torch.Tag.pointwise in call.operation.tags:
        return pointwise
    raise Unsupported
