"""The network of a run: its architecture, examined without weights, and its first weights."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ersparse.config.schema import Settings
from ersparse.kernels.fused_graph import FusedGraph, NotCovered
from ersparse.models.build import NetworkSpec
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.positions import positions
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.rng import generator


class Architecture(NamedTuple):
    """A network without weights.

    Attributes:
        module: the network on the meta device.
        layers: its prunable layers.
        graph: its channel graph, or the reason why it cannot be traced.
    """

    module: nn.Module
    layers: list[Layer]
    graph: list[ChannelOp] | GraphError


def spec_of(settings: Settings) -> NetworkSpec:
    """Return the arguments that the network of a run is built with."""
    model, dataset = settings.model, settings.dataset
    own = json.dumps(model.own_keys(), sort_keys=True)
    return NetworkSpec(model.target, dataset.num_classes, dataset.channels, model.width, own)


def build_network(settings: Settings, init_from: dict[str, Tensor] | None) -> nn.Module:
    """Return the network that is trained, on the CPU, with its first weights.

    With `sparsity.control=reinit` they are drawn independently of the weights that were scored.
    """
    if settings.sparsity.control != "reinit":
        return initial_network(settings, init_from)
    return (
        _with_random_weights(settings, "weights") if init_from else _with_random_weights(settings, "weights", "reinit")
    )


def initial_network(settings: Settings, init_from: dict[str, Tensor] | None) -> nn.Module:
    """Return the network that pruners score, with the weights of `init_from`, or random ones."""
    network = _with_random_weights(settings, "weights")
    if init_from is not None:
        network.load_state_dict({key: value for key, value in init_from.items() if value.dtype != torch.bool})
    return network


def positions_of(settings: Settings) -> dict[str, int]:
    """Return, by layer, how often one image uses each of its weights."""
    return _positions(spec_of(settings), settings.dataset.image_size)


@lru_cache(maxsize=64)  # the jobs of a sweep share few architectures
def architecture(spec: NetworkSpec) -> Architecture:
    """Return the network without its weights, with its layers and its channel graph."""
    with torch.device("meta"), _SkipNormalInitialization():
        module = spec.build()
    graph: list[ChannelOp] | GraphError
    try:
        graph = trace(module)
    except GraphError as error:
        graph = error
    return Architecture(module, prunable_layers(module), graph)


@lru_cache(maxsize=64)
def unsupported_operation(spec: NetworkSpec) -> NotCovered | None:
    """Return the first operation that sparse execution has no kernel for, or None."""
    try:
        FusedGraph(architecture(spec).module)
    except NotCovered as error:
        return error
    return None


@lru_cache(maxsize=64)
def _positions(spec: NetworkSpec, side: int) -> dict[str, int]:
    return positions(architecture(spec).module, spec.channels, side)


def _with_random_weights(settings: Settings, *stream: str) -> nn.Module:
    """Return the network with weights drawn from the stream of the init seed that `stream` names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(settings.seed_of("init"), *stream).integers(2**62)))
        return spec_of(settings).build()


class _SkipNormalInitialization(TorchFunctionMode):
    """Skips `normal_`, which has no effect on the meta device, but would import PyTorch's compiler (two seconds)."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function.__name__ == "normal_":
            return [*arguments, *keywords.values()][0]
        return function(*arguments, **keywords)
