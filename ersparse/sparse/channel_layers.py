"""Rules of channel tracing for operations with weights: convolutions, matrix products, embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ersparse.sparse.channel_call import Call, Labelled, Unsupported, Weight, kernels_of, labels_of
from ersparse.sparse.channel_labels import GraphBuilder, plus_constant

FACTORS = {
    "mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"),
}  # fmt: skip


def convolved(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a convolution: the pixels of a channel are mixed, unless the kernel has a single one."""
    labels, weight, groups = call.labels("input"), call["weight"], call["groups"]
    if isinstance(weight, Labelled):
        raise Unsupported(" with a weight that is computed")
    spatial = weight.dim() - 2
    known = call.weight_of(weight)
    view = known.view if known else torch.empty(weight.shape, device="meta")
    view = _by_group(view, 0, groups)
    if call["transposed"]:
        view = view.transpose(1, 2)
    _check_inputs(labels.shape[1], view.shape[2] * groups)
    pixels = _pixels(call, labels.shape[2:], weight.shape[2:])
    is_pixelwise = pixels == list(labels.shape[2:]) and set(weight.shape[2:]) == {1}
    read = labels if is_pixelwise else builder.sums(labels, range(-spatial, 0), keepdim=True)
    made = builder.layer(read.movedim(1, -1), known.layer if known else "", kernels_of(view)).movedim(-1, 1)
    made = made if call["bias"] is None else plus_constant(made)
    return made.expand(*made.shape[:2], *pixels)


def _pixels(call: Call, size: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return the image size after a convolution (formulas of `nn.Conv2d` and `nn.ConvTranspose2d`)."""
    options = [call[name] for name in ("stride", "padding", "dilation", "output_padding")]
    stride, padding, dilation, more = ([*option] * len(size) if len(option) == 1 else option for option in options)
    after = []
    for n, k, s, p, d, o in zip(size, kernel, stride, padding, dilation, more, strict=False):
        whole = (
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1 if call["transposed"] else (n + 2 * p - d * (k - 1) - 1) // s + 1
        )
        if whole < 1:
            raise RuntimeError(f"an image of {list(size)} pixels is too small")
        after.append(whole)
    return after


def matrix_product(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a product of matrices, or of batches of them, to which a tensor may be added.

    One of the factors may be a weight.
    """
    first, second = FACTORS[call.name]
    product = _multiplied(call, builder, call[first], call[second])
    return product if first == "self" else builder.sum_of(product, call.first)


def _multiplied(call: Call, builder: GraphBuilder, first: Tensor, second: Tensor) -> Tensor:
    """Return the labels of the product of [batch, n, k] and [batch, k, m], or of [n, k] and [k, m]."""
    for tensor, other, is_second in ((second, first, True), (first, second, False)):
        if weight := _weight_or_constant(call, tensor):
            layer, view = weight.layer, weight.view if is_second else weight.view.mT
            rows = labels_of(other) if is_second else labels_of(other).mT
            made = _batched_layer(builder, rows, layer, view)
            return made if is_second else made.mT
    matrices = [labels_of(tensor) for tensor in (first, second)]
    if matrices[0].dim() == 2:
        return builder.matrix_product(matrices[0][None], matrices[1][None])[0]
    return builder.matrix_product(matrices[0], matrices[1])


def _weight_or_constant(call: Call, tensor: Tensor) -> Weight | None:
    """Return the weight that a matrix is, or a dense one for a matrix that does not depend on the input."""
    if isinstance(tensor, Labelled):
        return None
    return call.weight_of(tensor) or Weight("", torch.empty(tensor.shape, device="meta"))


def _batched_layer(builder: GraphBuilder, rows: Tensor, layer: str, view: Tensor) -> Tensor:
    """Return the labels of rows [..., n, k] times a weight [..., k, m]; a batch of weights acts as groups."""
    if view.dim() == 3 and (view.shape[0] == 1 or view.stride(0) == 0):
        view = view[0]
    if view.dim() == 2:
        rows = _stretched(rows, view.shape[0])
        return builder.layer(rows, layer, kernels_of(view.t()[None]))
    _check_inputs(rows.shape[-1], view.shape[1])
    made = builder.layer(rows.transpose(0, 1).flatten(1), layer, kernels_of(view.mT))
    return _by_group(made, 1, view.shape[0]).transpose(0, 1)


def _stretched(rows: Tensor, n_in: int) -> Tensor:
    """Fit the inputs of a linear layer to its weight.

    The number of pixels of a flattened image follows from the size of the image, which may be another than the one
    that is traced. The graph is the same, since all pixels of a channel have the same label.
    """
    if rows.shape[-1] == n_in:
        return rows
    changes = (rows[..., 1:] != rows[..., :-1]).flatten(0, -2).any(0)
    starts = torch.cat([torch.tensor([0]), changes.nonzero()[:, 0] + 1])
    lengths = torch.diff(starts, append=torch.tensor([rows.shape[-1]]))
    if n_in % len(starts) or (lengths != lengths[0]).any():
        raise RuntimeError(f"a layer of {n_in} inputs on {rows.shape[-1]}")
    return rows[..., starts].repeat_interleave(n_in // len(starts), -1)


def bilinear(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a bilinear layer, whose inputs are the products of all pairs of inputs."""
    weight = call.weight_of(call["i2"])
    if weight is None or weight.view.dim() != 3:
        raise Unsupported
    first, second = call.labels("i1"), call.labels("i3")
    pairs = builder.product_of(first.squeeze(1)[..., :, None], second.squeeze(1)[..., None, :]).flatten(-2)
    return builder.layer(pairs, weight.layer, kernels_of(weight.view.flatten(1)[None]))


def embedded(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of an embedding: the inputs of the layer are the tokens."""
    weight, tokens = call.weight_of(call["weight"]), call.labels("indices")
    rows, columns = call["weight"].shape
    if weight is None:
        return tokens[..., None].expand(*tokens.shape, columns)
    tokens = tokens[..., None].expand(*tokens.shape, rows)
    return builder.layer(tokens, weight.layer, kernels_of(weight.view.t()[None]))


def _by_group(view: Tensor, dim: int, groups: int) -> Tensor:
    """Split the dimension `dim` into groups and the rest."""
    return view.reshape(*view.shape[:dim], groups, -1, *view.shape[dim + 1 :])


def _check_inputs(found: int, wanted: int) -> None:
    if found != wanted:
        raise RuntimeError(f"a layer of {wanted} inputs on {found}")
