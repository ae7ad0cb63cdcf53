"""The network of a run: its architecture, examined without weights, and its first weights."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ersparse.config.schema import Settings
from ersparse.errors import UserError
from ersparse.kernels.fused_graph import FusedGraph
from ersparse.kernels.nodes import NotCovered
from ersparse.kernels.shapes import ImageShape
from ersparse.locate import describe_failure
from ersparse.models.build import NetworkSpec
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.initialization import transplant
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.positions import positions
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.rng import generator
from ersparse.sparse.zero_pass import zero_pass
from ersparse.storage.run_folder import network_tensors


class Architecture(NamedTuple):
    """A network without weights.

    Attributes:
        module: the network on the meta device; on the CPU if its constructor needs the values of tensors.
        layers: its prunable layers.
        graph: its channel graph, or the reason why it cannot be traced.
    """

    module: nn.Module
    layers: list[Layer]
    graph: list[ChannelOp] | GraphError


def spec_of(settings: Settings) -> NetworkSpec:
    """Return the arguments that the network of a run is built with."""
    model, dataset = settings.model, settings.dataset
    own = json.dumps(model.arguments(), sort_keys=True)
    return NetworkSpec(model.target, dataset.num_classes, dataset.channels, model.width, own, dataset.image_size)


def build_network(settings: Settings, init_from: dict[str, Tensor] | None) -> nn.Module:
    """Return the network that is trained, on the CPU, with its first weights.

    With `sparsity.control=reinit` they are drawn independently of the weights that were scored; with `signs` and
    `magnitudes` those of prunable weights are the loaded ones, and all else is drawn. With `permute` the loaded ones
    are only what masks are matched to.
    """
    control = settings.sparsity.control
    if control in ("signs", "magnitudes"):
        assert init_from is not None
        return transplant(_with_random_weights(settings, "weights"), init_from, control)
    if control == "permute":
        return _with_random_weights(settings, "weights")
    if control != "reinit":
        return initial_network(settings, init_from)
    return (
        _with_random_weights(settings, "weights") if init_from else _with_random_weights(settings, "weights", "reinit")
    )


def initial_network(settings: Settings, init_from: dict[str, Tensor] | None) -> nn.Module:
    """Return the network that pruners score, with the weights of `init_from`, or random ones."""
    network = _with_random_weights(settings, "weights")
    if init_from is not None:
        network.load_state_dict(network.state_dict() | network_tensors(init_from))
    return network


def positions_of(settings: Settings) -> dict[str, int]:
    """Return, by layer, how often one image uses each of its weights."""
    return _positions(spec_of(settings))


def check_images(settings: Settings) -> None:
    """Check that the network takes the images of the data set, and returns one logit for each class.

    Raises:
        UserError: it does not, or its forward pass raises an error.
    """
    _positions(spec_of(settings))


@lru_cache(maxsize=64)  # the jobs of a sweep share few architectures
def architecture(spec: NetworkSpec) -> Architecture:
    """Return the network without its weights, with its layers and its channel graph."""
    try:
        with torch.device("meta"), SkipNormalInitialization():
            module = spec.build()
    except UserError:  # the constructor may compute with the values of tensors
        with torch.random.fork_rng(devices=[]):
            module = spec.build()
    graph: list[ChannelOp] | GraphError
    try:
        graph = trace(module, None if spec.image_size is None else (2, spec.channels, *spec.size))
    except GraphError as error:
        graph = error
    return Architecture(module, prunable_layers(module), graph)


@lru_cache(maxsize=64)
def unsupported_operation(spec: NetworkSpec) -> NotCovered | None:
    """Return the first operation that sparse execution has no kernel for, or None."""
    try:
        graph = FusedGraph(architecture(spec).module)
        if spec.image_size is not None:
            graph.shapes(ImageShape(spec.channels, *spec.size))
    except NotCovered as error:
        return error
    return None


@lru_cache(maxsize=64)
def _positions(spec: NetworkSpec) -> dict[str, int]:
    """Return the positions of each layer, once the network has been seen to work in training and in evaluation.

    Raises:
        UserError: it does not.
    """
    assert spec.image_size
    try:
        return _try(spec, architecture(spec).module)
    except UserError:  # tensors that are neither parameters nor buffers have values on the CPU alone
        with torch.random.fork_rng(devices=[]):
            return _try(spec, spec.build())


def _try(spec: NetworkSpec, module: nn.Module) -> dict[str, int]:
    (height, width), where = spec.size, f"model._target_={spec.target}"
    images = f"images of {spec.channels}x{height}x{width} (dataset.channels, dataset.image_size)"
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with torch.random.fork_rng(devices=[]):
            found = positions(module, spec.channels, spec.size)
            if not spec.target.startswith("ersparse."):  # what those return does not depend on the mode
                zero_pass(module, 2, (spec.channels, *spec.size), training=True)
    except Exception as error:
        raise UserError(f"{where}: cannot take {images}: {describe_failure(error)}") from error
    finally:
        handle.remove()
    for mode, output in zip(("evaluation", "training"), outputs, strict=False):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if not isinstance(output, Tensor) or shape[1:] != [spec.num_classes]:
            raise UserError(
                f"{where}: returns {shape} in {mode} mode for {images}, must return [images, {spec.num_classes}]"
            )
    return found


def _with_random_weights(settings: Settings, *stream: str) -> nn.Module:
    """Return the network with weights drawn from the stream of the init seed that `stream` names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator(settings.seed_of("init"), *stream).integers(2**62)))
        return spec_of(settings).build()


class SkipNormalInitialization(TorchFunctionMode):
    """Skips `normal_`, which has no effect on the meta device, but would import PyTorch's compiler (two seconds)."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function.__name__ == "normal_":
            return [*arguments, *keywords.values()][0]
        return function(*arguments, **keywords)
