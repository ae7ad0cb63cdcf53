"""Runs a network on labels instead of values, and records its channel graph.

PyTorch hands each operation to `ChannelTracer` before it computes. An operation on labels, or on a prunable weight, is
replaced by its rule (`ersparse.sparse.channel_rules`); one on constants is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ersparse.sparse.channel_call import Call, Labelled, Unsupported, Weight
from ersparse.sparse.channel_labels import ZERO, GraphBuilder, condensed
from ersparse.sparse.channel_rules import rule_of
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.wrappers import named_modules

LAYERS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "embedding", "_trilinear")  # operations that read weights
COPIES = ("clone", "_to_copy", "detach", "alias", "lift_fresh")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "isnan", "isinf")
VALUES = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero")


class GraphError(ValueError):
    """A network whose channel graph cannot be traced; the message names the operation and the module."""


class Weights:
    """The prunable weights of a network, and stand-ins without values that are used in their place.

    A stand-in is contiguous and has a storage of its own, so that each view of it tells its layer and its position.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers: dict[int, str] = {}  # by the storage of the stand-in
        self._stand_ins: dict[int, list[tuple[Tensor, Tensor]]] = {}  # (weight, stand-in) by the storage of the weight
        for name, held in prunable_weights(network).items():
            if (weight := held.parameter) is not None:  # otherwise it is computed from other tensors
                stand_in = torch.empty(weight.shape, device="meta")
                self._layers[_storage(stand_in)] = name
                self._stand_ins.setdefault(_storage(weight), []).append((weight, stand_in))

    def stand_in(self, tensor: Tensor) -> Tensor:
        """Return the stand-in for a view of a prunable weight, and other tensors as they are."""
        start = tensor.storage_offset()
        for weight, stand_in in self._stand_ins.get(_storage(tensor), []):
            if tensor is weight or (tensor.shape, tensor.stride(), start) == (
                weight.shape,
                weight.stride(),
                weight.storage_offset(),
            ):
                return stand_in
            offset = start - weight.storage_offset()
            if weight.is_contiguous() and 0 <= offset < weight.numel():
                return stand_in.as_strided(tensor.shape, tensor.stride(), offset)
        return tensor

    def weight_of(self, tensor: Tensor) -> Weight | None:
        """Return the weight whose stand-in `tensor` is a view of, if it is one."""
        layer = None if isinstance(tensor, Labelled) else self._layers.get(_storage(tensor))
        return None if layer is None else Weight(layer, tensor)


class ChannelTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs networks on labels.

    Attributes:
        builder: the channel graph so far.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.builder = GraphBuilder()
        self._weights = Weights(network)
        self._running: list[nn.Module] = []
        self._raised: BaseException | None = None
        self._raised_in = ""
        self._names = {id(module): name for name, module in named_modules(network)}
        parameters = list(network.parameters())
        self._state = {_storage(tensor) for tensor in [*parameters, *network.buffers()]}
        self._device = parameters[0].device if parameters else torch.device("cpu")
        self._dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: PyTorch would otherwise import its compiler, which takes seconds."""
        return False

    def run(self, network: nn.Module, arguments: tuple[Any, ...]) -> list[Tensor]:
        """Run `forward` on inputs in the shapes of `arguments`, and return the tensors of its result.

        Raises:
            GraphError: an operation is not supported.
        """
        inputs = tree_map(lambda x: self._input(x) if isinstance(x, Tensor) else x, arguments)
        with self._following_modules(), self:
            result = network(*inputs)
        tensors = tree_flatten(dict(result) if hasattr(result, "items") else result)[0]
        outputs = [tensor for tensor in tensors if isinstance(tensor, Labelled)]
        if not outputs:
            raise GraphError("no output of the network depends on its input; flow=none needs no channel graph")
        self.builder.outputs([output.labels for output in outputs])
        return list(outputs)

    def place(self, error: BaseException | None = None) -> str:
        """Return the module that is running, or that raised `error`, with its class; empty for the network itself."""
        if error is not None and error is self._raised:
            return self._raised_in
        named = [(self._names.get(id(module)), type(module).__name__) for module in self._running]
        return next((f"in {name} ({kind})" for name, kind in reversed(named) if name), "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace an operation that depends on the input or on a prunable weight by its rule."""
        names = [argument.name for argument in func._schema.arguments]
        given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        call = Call(func, {name: self._replaced(value) for name, value in given.items()}, self._weights.weight_of)
        tensors = call.tensors
        if any(isinstance(tensor, Labelled) for tensor in tensors):
            return self._on_labels(call, tensors)
        if any(self._weights.weight_of(tensor) for tensor in tensors):
            return self._on_weight(call)
        changed = next(iter(tensors), None)
        if func._schema.is_mutable and changed is not None and _storage(changed) in self._state:
            return changed  # a counter or statistics of a normalisation
        return func(**call.arguments)

    def _on_labels(self, call: Call, tensors: list[Tensor]) -> Any:
        """Return the labelled results of an operation, of which an argument depends on the input."""
        if call.name not in LAYERS and any(self._weights.weight_of(tensor) for tensor in tensors):
            raise self._unsupported(call, " of a prunable weight")
        try:
            result = rule_of(call)(call, self.builder)
        except Unsupported as error:
            raise self._unsupported(call, str(error)) from None
        if call.operation._schema.is_mutable:
            return self._in_place(call, result)
        floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
        dtype = call["dtype"] or (torch.bool if call.name in COMPARISONS else [*floats, tensors[0].dtype][0])
        if isinstance(result, Tensor):
            made: Any = Labelled(result, dtype, self._device)
        else:
            made = type(result)(Labelled(labels, dtype, self._device) for labels in result)
        if call.operation.is_view:
            base = next(tensor for tensor in tensors if isinstance(tensor, Labelled))
            base.join([made] if isinstance(made, Labelled) else made)
        return made

    def _on_weight(self, call: Call) -> Any:
        """Return the result of an operation on a prunable weight, of which no argument depends on the input.

        A view is a view of the stand-in. Constants that a layer reads, such as coordinates, count as an input, unless
        they are zero, as the first state of a recurrence.
        """
        if call.name in COPIES:
            return next(iter(call.arguments.values()))
        if call.operation.is_view:
            return call.operation(**call.arguments)
        if call.name not in LAYERS:
            raise self._unsupported(call, " of a prunable weight")
        added = "self" if call.name in ("addmm", "baddbmm") else "bias"
        read = {
            name: self._input(value, is_zero=value.device.type != "meta" and not value.any())
            for name, value in call.arguments.items()
            if isinstance(value, Tensor) and name != added and not self._weights.weight_of(value)
        }
        arguments = {**call.arguments, **read}
        return self._on_labels(Call(call.operation, arguments, call.weight_of), list(read.values()))

    def _in_place(self, call: Call, labels: Tensor) -> Any:
        """Change the labels of the first argument, if no other tensor shows the same elements."""
        changed = next(iter(call.arguments.values()))
        if not isinstance(changed, Labelled):
            if _storage(changed) in self._state:
                return changed
            raise self._unsupported(call, " into a tensor that does not depend on the input")
        others = [view for view in changed.family if view() is not None and view() is not changed]
        (after, before), _ = condensed([labels.expand(changed.shape), changed.labels])
        if others and not torch.equal(after >> 1, before >> 1):
            raise self._unsupported(call, " into a part of a tensor")
        changed.labels = labels.expand(changed.shape)
        return changed

    def _replaced(self, value: Any) -> Any:
        """Return a weight's stand-in for the weight."""
        if isinstance(value, (list, tuple)):
            return [self._replaced(item) for item in value]
        return self._weights.stand_in(value) if type(value) in (Tensor, nn.Parameter) else value

    def _input(self, like: Tensor, is_zero: bool = False) -> Labelled:
        """Return an input in the shape of a tensor."""
        dtype = self._dtype if like.is_floating_point() else like.dtype
        label = torch.tensor(ZERO if is_zero else self.builder.input)
        return Labelled(label.expand(like.shape), dtype, self._device)

    def _unsupported(self, call: Call, detail: str) -> GraphError:
        depends = ", which needs its values" if call.name in VALUES else ""
        place = self.place() and f" {self.place()}"
        return GraphError(
            f"channels cannot be followed through {call.name}{detail}{depends}{place}; flow=none needs no channel graph"
        )

    @contextmanager
    def _following_modules(self) -> Iterator[None]:
        """Keep track of the modules that are running."""

        def enter(module: nn.Module, args: Any) -> None:
            self._running.append(module)
            if isinstance(module, nn.RNNBase):
                raise GraphError(
                    f"channels cannot be followed through recurrent layers {self.place()}; "
                    "flow=none needs no channel graph"
                )

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            error = sys.exception()
            if error is not None and error is not self._raised:
                self._raised, self._raised_in = error, self.place()
            self._running.pop()

        handles = (
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
        )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _storage(tensor: Tensor) -> int:
    """Return the identity of a tensor's memory."""
    return int(tensor.untyped_storage()._cdata)
