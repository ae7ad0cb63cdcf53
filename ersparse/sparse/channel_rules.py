"""Rules of channel tracing: what each PyTorch operation does to the labels of its arguments.

A rule is a function (call, builder) -> labels of the results. Operations are those of ATen, into which PyTorch breaks
down all others, so few rules cover many modules: `nn.MultiheadAttention` is matrix products, softmax and views. An
operation without a rule is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.channel_labels import CONSTANT, ZERO, GraphBuilder, condensed, plus_constant
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


def rule_of(call: Call) -> Rule:
    """Return the rule of the operation that is called.

    Raises:
        Unsupported: there is none.
    """
    if call.name in RULES:
        return RULES[call.name]
    if torch.Tag.pointwise in call.operation.tags:
        return _pointwise
    raise Unsupported


def _same(call: Call, builder: GraphBuilder) -> Tensor:
    return call.first


def _constant(call: Call, builder: GraphBuilder) -> Tensor:
    """Values that have no gradient, such as comparisons, and tensors that are new or random."""
    shape: Any = call["size"] if call["size"] is not None else call.first.shape
    others = [value.shape for value in call.arguments.values() if isinstance(value, Tensor)]
    return torch.tensor(CONSTANT).expand(shape if call["size"] is not None else _broadcast(*others))


def _moved(call: Call, builder: GraphBuilder) -> Any:
    """Operations that move elements: the same operation moves their labels."""
    _check_index_without_values(call)
    values = {name: _to_move(name, value) for name, value in call.arguments.items()}
    if call.name in REINTERPRETED:
        if "size" not in values:
            raise Unsupported(" to another dtype")
        return values["self"].reshape(values["size"])
    if call.name == "constant_pad_nd":
        values["value"] = ZERO if not values.get("value") else CONSTANT
    if call.name not in MOVED_AS_FLOATS:
        return call.operation(**values)
    values["self"] = values["self"].double()
    return call.operation(**values).long()


def _concatenated(call: Call, builder: GraphBuilder) -> Tensor:
    """Concatenation; the pixels of images, which have the same labels, are not copied."""
    parts = [labels for labels in map(labels_of, call["tensors"]) if labels.shape != (0,)]
    dim = (call["dim"] or 0) % parts[0].dim()
    others = [other for other in range(parts[0].dim()) if other != dim]
    if any(part.shape[other] != parts[0].shape[other] for part in parts for other in others):
        raise RuntimeError(f"concatenation of {', '.join(str(list(part.shape)) for part in parts)}")
    small = parts
    for other in others:
        if all(part.stride(other) == 0 for part in parts):
            small = [part.narrow(other, 0, 1) for part in small]
    together = torch.cat(small, dim)
    shape = list(parts[0].shape)
    shape[dim] = together.shape[dim]
    return together.expand(shape)


def _to_move(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_to_move(name, item) for item in value]
    if isinstance(value, Labelled) and name in INDICES:
        raise Unsupported(" by an index that depends on the input")
    if isinstance(value, Tensor) and name not in INDICES:
        return labels_of(value)
    if not isinstance(value, Tensor):
        return value
    return value.cpu() if value.device.type != "meta" else torch.zeros(value.shape, dtype=torch.long)


def _check_index_without_values(call: Call) -> None:
    """Check that an index on the meta device selects from slices that are all alike, so that its values do not matter.

    Raises:
        Unsupported: the slices differ.
    """
    indices = call["indices"] if call.name == "index" else [call["index"]]
    dims = [dim for dim, index in enumerate(indices) if index is not None] if call.name == "index" else [call["dim"]]
    if any(isinstance(index, Tensor) and index.device.type == "meta" for index in indices):
        _, places = condensed([call.first], dims)
        if any(not places[dim].one and places[dim].size > 1 for dim in dims):
            raise Unsupported(" by an index without values")


def _pointwise(call: Call, builder: GraphBuilder) -> Tensor:
    """Functions of one tensor: a constant is added if the function of zero is not zero."""
    tensors = [name for name, value in call.arguments.items() if isinstance(value, Tensor)]
    if len(tensors) != 1:
        raise Unsupported(f" of {len(tensors)} tensors")
    values = {**call.arguments, tensors[0]: torch.zeros(())}
    if call.operation._schema.is_mutable:
        values[tensors[0]] = torch.zeros(1)
    of_zero = call.operation(**values)
    if of_zero.dtype == torch.bool:
        return _constant(call, builder)
    labels = call.labels(tensors[0])
    return plus_constant(labels) if of_zero != 0 else labels


def _sum(call: Call, builder: GraphBuilder) -> Tensor:
    return builder.sum_of(call.first, call.labels("other"))


def _product(call: Call, builder: GraphBuilder) -> Tensor:
    return builder.product_of(call.first, call.labels("other"))


def _power(call: Call, builder: GraphBuilder) -> Tensor:
    base, exponent = list(call.arguments.values())[:2]
    if isinstance(base, Tensor) and isinstance(exponent, Tensor):
        return builder.product_of(labels_of(base), labels_of(exponent))
    return _pointwise(call, builder)


def _sum_with_product(call: Call, builder: GraphBuilder) -> Tensor:
    product = builder.product_of(call.labels("tensor1"), call.labels("tensor2"))
    return builder.sum_of(call.first, product)


def _interpolated(call: Call, builder: GraphBuilder) -> Tensor:
    ends = builder.sum_of(call.first, call.labels("end"))
    weight = call.labels("weight")
    return builder.sum_of(ends, builder.product_of(ends, weight)) if isinstance(call["weight"], Tensor) else ends


def _chosen(call: Call, builder: GraphBuilder) -> Tensor:
    if "self" not in call.arguments:
        raise Unsupported
    return builder.sum_of(call.labels("self"), call.labels("other"))


def _replaced(call: Call, builder: GraphBuilder) -> Tensor:
    """Elements set to a constant where a mask says so, which is not known here."""
    return call.first.expand(_broadcast(call.first.shape, call["mask"].shape))


def _copied(call: Call, builder: GraphBuilder) -> Tensor:
    return call.labels("src").expand(call.first.shape)


def _gated(call: Call, builder: GraphBuilder) -> Tensor:
    """Gated linear units: a half of the channels times the sigmoid of the other half."""
    values, gates = call.first.chunk(2, -1 if call["dim"] is None else call["dim"])
    return builder.product_of(values, plus_constant(gates))


def _dropped(call: Call, builder: GraphBuilder) -> tuple[Tensor, Tensor]:
    return call.first, torch.tensor(CONSTANT).expand(call.first.shape)


def _log_sigmoid(call: Call, builder: GraphBuilder) -> tuple[Tensor, Tensor]:
    return plus_constant(call.first), torch.tensor(CONSTANT)


def _normalised(call: Call, builder: GraphBuilder) -> tuple[Any, ...]:
    """Normalisations: a channel stays itself, and its mean is subtracted, which adds a constant."""
    labels, scale = call.first, call["weight"]
    wanted = list(call["normalized_shape"] or scale.shape) if scale is not None else []
    found = list(labels.shape[1:2] if call.name not in TOKENWISE_NORMS else labels.shape[-len(wanted) :])
    if wanted and found != wanted:
        raise RuntimeError(f"normalisation of {wanted} on {found}")
    labels = labels if call.name == "_fused_rms_norm" else plus_constant(labels)
    statistics = [torch.tensor(CONSTANT)] * (len(call.operation._schema.returns) - 1)
    return (labels, *statistics)


def _softmax(call: Call, builder: GraphBuilder) -> Tensor:
    labels = call.first
    return plus_constant(builder.sums(labels, [call["dim"]], keepdim=True)).expand(labels.shape)


def _reduced(call: Call, builder: GraphBuilder) -> Any:
    if "other" in call.arguments:  # torch.max of two tensors
        return _sum(call, builder)
    labels, dims = call.first, call["dim"]
    dims = [dims] if isinstance(dims, int) else dims
    summed = builder.sums(labels, dims or range(labels.dim()), bool(call["keepdim"]))
    if len(call.operation._schema.returns) == 1:
        return summed
    return (summed, torch.tensor(CONSTANT).expand(summed.shape) if call.name in ("max", "min") else summed)


def _pooled(call: Call, builder: GraphBuilder) -> Any:
    """Pooling and resampling: the pixels of a channel are mixed. Their number is that of a real call on one channel."""
    labels = call.first
    spatial = next(int(digit) for digit in call.name if digit in "123")
    lead = labels.shape[: labels.dim() - spatial]
    image = torch.zeros(1, 1, *labels.shape[labels.dim() - spatial :])
    values = {**call.arguments, next(iter(call.arguments)): image}
    results = call.operation(**values)
    pixels = (results[0] if isinstance(results, tuple) else results).shape[2:]
    mixed = builder.sums(labels, range(-spatial, 0), keepdim=True).expand(*lead, *pixels)
    return (mixed, torch.tensor(CONSTANT).expand(mixed.shape)) if isinstance(results, tuple) else mixed


def _convolved(call: Call, builder: GraphBuilder) -> Tensor:
    """Convolutions: the pixels of a channel are mixed, unless the kernel has a single one."""
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


def _matrix_product(call: Call, builder: GraphBuilder) -> Tensor:
    """Products of matrices or batches of matrices, with a weight or with each other, to which a tensor may be added."""
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


def _bilinear(call: Call, builder: GraphBuilder) -> Tensor:
    """Bilinear layers: the products of all pairs of inputs are the inputs of a layer."""
    weight = call.weight_of(call["i2"])
    if weight is None or weight.view.dim() != 3:
        raise Unsupported
    first, second = call.labels("i1"), call.labels("i3")
    pairs = builder.product_of(first.squeeze(1)[..., :, None], second.squeeze(1)[..., None, :]).flatten(-2)
    return builder.layer(pairs, weight.layer, kernels_of(weight.view.flatten(1)[None]))


def _embedded(call: Call, builder: GraphBuilder) -> Tensor:
    weight, tokens = call.weight_of(call["weight"]), call.labels("indices")
    rows, columns = call["weight"].shape
    if weight is None:
        return tokens[..., None].expand(*tokens.shape, columns)
    tokens = tokens[..., None].expand(*tokens.shape, rows)
    return builder.layer(tokens, weight.layer, kernels_of(weight.view.t()[None]))


def _broadcast(*shapes: Sequence[int]) -> torch.Size:
    return torch.Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def _by_group(view: Tensor, dim: int, groups: int) -> Tensor:
    """Split the dimension `dim` into groups and the rest."""
    return view.reshape(*view.shape[:dim], groups, -1, *view.shape[dim + 1 :])


def _check_inputs(found: int, wanted: int) -> None:
    if found != wanted:
        raise RuntimeError(f"a layer of {wanted} inputs on {found}")


INDICES = ("index", "indices", "repeats")
MOVED_AS_FLOATS = {
    "im2col", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle",
}  # fmt: skip
REINTERPRETED = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
MOVED = MOVED_AS_FLOATS | REINTERPRETED | {
    "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "select", "slice", "split", "split_with_sizes",
    "unsafe_split", "unsafe_chunk", "chunk", "unbind", "narrow", "diagonal", "stack", "roll", "flip", "rot90",
    "repeat", "repeat_interleave", "index", "index_select", "gather", "constant_pad_nd", "unfold", "channel_shuffle",
    "movedim", "flatten", "unflatten",
}  # fmt: skip
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
FACTORS = {
    "mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"),
}  # fmt: skip
_GROUPS: list[tuple[Iterable[str], Rule]] = [
    (MOVED, _moved),
    (("cat",), _concatenated),
    (SAME, _same),
    (("hardswish", "mish", "threshold", "gelu"), _pointwise),  # without the tag
    (SUMS, _sum),
    (PRODUCTS, _product),
    (CONSTANTS, _constant),
    (NORMS, _normalised),
    (REDUCTIONS, _reduced),
    (POOLS, _pooled),
    (FACTORS, _matrix_product),
    (("convolution", "_convolution"), _convolved),
    (("_softmax", "_log_softmax", "_safe_softmax"), _softmax),
    (("addcmul", "addcdiv"), _sum_with_product),
    (("lerp",), _interpolated),
    (("where",), _chosen),
    (("masked_fill",), _replaced),
    (("copy",), _copied),
    (("pow",), _power),
    (("glu",), _gated),
    (("native_dropout",), _dropped),
    (("log_sigmoid_forward",), _log_sigmoid),
    (("_trilinear",), _bilinear),
    (("embedding",), _embedded),
]
RULES: dict[str, Rule] = {name: rule for names, rule in _GROUPS for name in names}
