"""Rules of channel tracing for operations that move elements: views, permutations, indices, concatenation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ersparse.sparse.channel_call import Call, Labelled, Unsupported, labels_of
from ersparse.sparse.channel_labels import CONSTANT, ZERO, GraphBuilder, condensed

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


def moved(call: Call, builder: GraphBuilder) -> Any:
    """Return the labels of an operation that moves elements: the same operation moves their labels."""
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


def concatenated(call: Call, builder: GraphBuilder) -> Tensor:
    """Return the labels of a concatenation; the pixels of images, which have the same labels, are not copied."""
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
