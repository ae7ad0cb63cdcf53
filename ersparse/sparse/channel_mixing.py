"""Rules of channel tracing for operations over several elements: normalisation, softmax, reductions, pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.channel_call import Call
from ersparse.sparse.channel_elementwise import added
from ersparse.sparse.channel_labels import CONSTANT, GraphBuilder, plus_constant

TOKENWISE_NORMS = {"native_layer_norm", "_fused_rms_norm"}
NORMS = TOKENWISE_NORMS | {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "_native_batch_norm_legit_functional", "_batch_norm_with_update", "_batch_norm_no_update", "miopen_batch_norm",
    "native_group_norm",
}  # fmt: skip
REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "norm", "logsumexp",
    "linalg_vector_norm", "nansum",
}  # fmt: skip
POOLS = {
    *[f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for d in (1, 2, 3)],
    *[f"_adaptive_avg_pool{d}d" for d in (2, 3)],
    *[f"max_pool{d}d_with_indices" for d in (1, 2, 3)],
    *[f"upsample_nearest{d}d" for d in (1, 2, 3)], *[f"_upsample_nearest_exact{d}d" for d in (1, 2, 3)],
    "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
}  # fmt: skip


def normalised(call: Call, builder: GraphBuilder) -> tuple[Any, ...]:
    """Return the labels of a normalisation: a channel stays itself, and loses its mean, a constant."""
    labels, scale = call.first, call["weight"]
    wanted = list(call["normalized_shape"] or scale.shape) if scale is not None else []
    found = list(labels.shape[1:2] if call.name not in TOKENWISE_NORMS else labels.shape[-len(wanted) :])
    if wanted and found != wanted:
        raise RuntimeError(f"normalisation of {wanted} on {found}")
    labels = labels if call.name == "_fused_rms_norm" else plus_constant(labels)
    statistics = [torch.tensor(CONSTANT)] * (len(call.operation._schema.returns) - 1)
    return (labels, *statistics)


def softmax(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a softmax."""
    labels = call.first
    return plus_constant(builder.sums(labels, [call["dim"]], keepdim=True)).expand(labels.shape)


def reduced(call: Call, builder: GraphBuilder) -> Any:
    """Return the labels of a reduction over dimensions."""
    if "other" in call.arguments:  # torch.max of two tensors
        return added(call, builder)
    labels, dims = call.first, call["dim"]
    dims = [dims] if isinstance(dims, int) else dims
    summed = builder.sums(labels, dims or range(labels.dim()), bool(call["keepdim"]))
    if len(call.operation._schema.returns) == 1:
        return summed
    return (summed, torch.tensor(CONSTANT).expand(summed.shape) if call.name in ("max", "min") else summed)


def pooled(call: Call, builder: GraphBuilder) -> Any:
    """Return the labels of pooling or resampling: the pixels of a channel are mixed.

    Their number is that of a real call on one channel.
    """
    labels = call.first
    spatial = next(int(digit) for digit in call.name if digit in "123")
    lead = labels.shape[: labels.dim() - spatial]
    image = torch.zeros(1, 1, *labels.shape[labels.dim() - spatial :])
    values = {**call.arguments, next(iter(call.arguments)): image}
    results = call.operation(**values)
    pixels = (results[0] if isinstance(results, tuple) else results).shape[2:]
    mixed = builder.sums(labels, range(-spatial, 0), keepdim=True).expand(*lead, *pixels)
    return (mixed, torch.tensor(CONSTANT).expand(mixed.shape)) if isinstance(results, tuple) else mixed
