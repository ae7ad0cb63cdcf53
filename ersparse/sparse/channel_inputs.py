"""Inputs that a network may take: channel tracing runs `forward`, and needs to know the shape of an input."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_flatten, tree_map

BATCH = 2
SIZES: dict[int, list[tuple[int, ...]]] = {  # of images, by the number of their dimensions
    1: [(n,) for n in (1024, 128, 64, 16000, 32, 16, 8)],
    2: [(n, n) for n in (224, 32, 28, 299, 64, 96, 128, 256, 384, 512, 16, 8, 4)],
    3: [(16, 112, 112), (32, 32, 32), (8, 32, 32), (64, 64, 64), (8, 8, 8)],
}
SIZE_ATTRIBUTES = ("image_size", "img_size")  # of torchvision's and timm's networks of a fixed image size


class Inputs(NamedTuple):
    """Arguments of a network's `forward`.

    Attributes:
        arguments: tensors without values, or containers of them.
        is_known: whether the network takes this input for certain.
    """

    arguments: tuple[Any, ...]
    is_known: bool = False

    def __str__(self) -> str:
        """Return the shapes, for error messages."""
        shapes = [list(tensor.shape) for tensor in tree_flatten(self.arguments)[0] if isinstance(tensor, Tensor)]
        return f"input {', '.join(map(str, shapes))}"

    def accepts(self, results: Sequence[Tensor]) -> bool:
        """Return whether the network keeps the batch, which it does not if the size of the image is wrong.

        `x.view(-1, 400)` runs on images of any size, but moves pixels of large ones to the batch.
        """
        return self.is_known or any(tensor.dim() == 0 or len(tensor) == BATCH for tensor in results)


def possible_inputs(network: nn.Module, shape: tuple[int, ...] | None) -> Iterator[Inputs]:
    """Yield inputs that `network` may take, the likely ones first.

    The attribute `example_input_array` (as in Lightning) gives the input. Otherwise its shape follows from the first
    layers and from the image size that networks of a fixed size have as an attribute.

    Args:
        network: the network.
        shape: shape of the input, [B, ...], if it is known.
    """
    example = getattr(network, "example_input_array", None)
    if shape is not None:
        yield Inputs((_tensor(*shape),) * _required_arguments(network), is_known=True)
    elif example is not None:
        arguments = example if isinstance(example, tuple) else (example,)
        yield Inputs(tree_map(lambda x: x.to("meta") if isinstance(x, Tensor) else x, arguments), is_known=True)
    else:
        tried: set[tuple[int, ...]] = set()
        for tensor in _first_arguments(network):
            if tuple(tensor.shape) not in tried:
                tried.add(tuple(tensor.shape))
                yield Inputs((tensor,) * _required_arguments(network))


def _first_arguments(network: nn.Module) -> Iterator[Tensor]:
    """Yield tensors that one of the first three layers takes."""
    kinds = (_ConvNd, nn.Linear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
    for layer in [module for module in network.modules() if isinstance(module, kinds)][:3]:
        if isinstance(layer, nn.Embedding):
            yield from (_tensor(BATCH, n, dtype=torch.long) for n in (8, 128))
        elif not isinstance(layer, _ConvNd):
            names = ("in_features", "embed_dim", "input_size")
            features = next(getattr(layer, name) for name in names if hasattr(layer, name))
            yield from (_tensor(BATCH, *size, features) for size in ((), (6,), (64,), (14, 14)))
        else:
            sizes = SIZES[layer.weight.dim() - 2]
            yield from (_tensor(BATCH, layer.in_channels, *size) for size in [*_known_sizes(network, layer), *sizes])


def _known_sizes(network: nn.Module, layer: _ConvNd) -> Iterator[tuple[int, ...]]:
    """Yield the image sizes that a network has as an attribute."""
    spatial = layer.weight.dim() - 2
    for module in network.modules():
        for name in SIZE_ATTRIBUTES:
            size = getattr(module, name, None)
            size = (size,) * spatial if isinstance(size, int) else size
            if isinstance(size, (tuple, list)) and len(size) == spatial and all(isinstance(n, int) for n in size):
                yield tuple(size)
                return


def _required_arguments(network: nn.Module) -> int:
    """Return the number of arguments of `forward` without a default, at least one."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(network.forward).parameters.values()
    return max(1, sum(p.kind in positional and p.default is p.empty for p in parameters))


def _tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")
