"""Prunable weights: which parameters of a network may be pruned, in which order, and what their axes mean."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ersparse.sparse.wrappers import named_modules

# layers with one input and one weight, called "weight"
Prunable = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Layer:
    """One prunable weight tensor.

    Attributes:
        name: name of the parameter, as in `named_parameters()`: "features.0.weight".
        shape: the shape of the parameter: (output channels, input channels / groups, *kernel), or, if `transposed`,
            (input channels, output channels / groups, *kernel). The inputs of an embedding are its words. The weights
            of linear, attention and recurrent layers have no kernel dimensions. In a bilinear layer, (outputs, first
            inputs, second inputs), the second inputs count as a kernel.
        groups: number of groups of a convolution; 1 for all other layers.
        transposed: whether the input channels come first, as in transposed convolutions.
    """

    name: str
    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    @property
    def size(self) -> int:
        """Number of weights N_l."""
        return math.prod(self.shape)

    @property
    def n_out(self) -> int:
        """Number of output channels."""
        return self.shape[1] * self.groups if self.transposed else self.shape[0]

    @property
    def n_in(self) -> int:
        """Number of input channels, summed over all groups."""
        return self.shape[0] if self.transposed else self.shape[1] * self.groups

    @property
    def fan_in(self) -> int:
        """Number of weights into one output channel."""
        return self.size // self.n_out

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """The shape with one row for each output channel: (n_out, n_in / groups, *kernel)."""
        return (self.n_out, self.n_in // self.groups, *self.shape[2:])

    def to_rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor of shape `shape` in the layout of `rows_shape`; the same tensor if the layouts agree."""
        if not self.transposed:
            return tensor
        by_group = tensor.reshape(self.groups, -1, *self.shape[1:])
        return by_group.transpose(1, 2).reshape(self.rows_shape)

    def from_rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor of shape `rows_shape` in the layout of the parameter, `shape`; the inverse of `to_rows`."""
        if not self.transposed:
            return tensor
        by_group = tensor.reshape(self.groups, -1, *self.rows_shape[1:])
        return by_group.transpose(1, 2).reshape(self.shape)


@dataclass(frozen=True)
class PrunableWeight:
    """A prunable parameter of a network, by the module that has it and its name there.

    Attributes:
        module: the module that has the parameter, and its mask as a buffer.
        key: name of the parameter in `module`, such as "weight" or "in_proj_weight".
    """

    module: nn.Module
    key: str

    @property
    def mask_key(self) -> str:
        """Name of the mask buffer in `module`."""
        return f"{self.key}_mask"

    @property
    def weight(self) -> Tensor:
        """The weight: a parameter, or a computed tensor if a parametrization replaced the parameter."""
        weight: Tensor = getattr(self.module, self.key)
        return weight

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight. Spectral normalisation, which changes state when it computes one, is in evaluation.

        A parametrization that cannot compute the weight on the meta device, as orthogonal ones, leaves the shape of the
        first tensor from which it computes.
        """
        parametrizations = self.module._modules.get("parametrizations")
        computing = list(parametrizations.modules()) if parametrizations is not None else []
        modes = [module.training for module in computing]
        try:
            for module in computing:
                module.training = False
            return tuple(self.weight.shape)
        except (TypeError, RuntimeError):
            if parametrizations is None:
                raise
            return tuple(next(parametrizations[self.key].parameters(recurse=False)).shape)  # type: ignore[index, operator]
        finally:
            for module, mode in zip(computing, modes, strict=True):
                module.training = mode

    @property
    def parameter(self) -> nn.Parameter | None:
        """The parameter itself; None if the weight is computed from other tensors."""
        return self.module._parameters.get(self.key)


def prunable_weights(module: nn.Module, embeddings: bool = False) -> dict[str, PrunableWeight]:
    """Return every prunable weight of `module`, keyed by the full name of the parameter.

    Prunable are the weights of convolutions and transposed convolutions, linear and bilinear layers, the projections of
    `nn.MultiheadAttention`, and the input, hidden and projection matrices of RNN, LSTM and GRU layers and cells, with
    subclasses of all of these. Biases and the parameters of normalisations are not. Embeddings are if they are masked,
    or on request.

    The order is that of `named_modules()`, and of the parameters within a module. Names are those of the network
    itself, without the prefixes of wrappers such as DistributedDataParallel. A weight that several layers share appears
    once, under its first name; under that of a layer if it shares the weight with an embedding.

    Args:
        module: the network.
        embeddings: whether embeddings are among the weights although they have no mask.
    """
    held = [
        (f"{name}.{key}" if name else key, PrunableWeight(child, key))
        for name, child in named_modules(module)
        for key in weight_keys(child, embeddings)
    ]
    names: dict[int, str] = {}
    for name, weight in sorted(held, key=lambda item: isinstance(item[1].module, EMBEDDINGS)):
        names.setdefault(id(weight.parameter if weight.parameter is not None else weight), name)  # computed: not shared
    chosen = set(names.values())
    return {name: weight for name, weight in held if name in chosen}


def prunable_layers(module: nn.Module, embeddings: bool = False) -> list[Layer]:
    """Return the prunable layers l = 1..L of `module`, as `prunable_weights` does."""
    return [
        Layer(
            name,
            held.shape,
            getattr(held.module, "groups", 1),
            isinstance(held.module, _ConvTransposeNd | nn.Embedding | nn.EmbeddingBag),
        )
        for name, held in prunable_weights(module, embeddings).items()
    ]


def parameter_names(module: nn.Module) -> dict[str, list[str]]:
    """Return all names of each parameter of `module` by each of its names: several if it is shared."""
    names: dict[int, list[str]] = {}
    for name, child in named_modules(module):
        for key, parameter in child._parameters.items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append(f"{name}.{key}" if name else key)
    by_name = {name: shared for shared in names.values() for name in shared}
    computed = (name for name in prunable_weights(module, embeddings=True) if name not in by_name)
    return by_name | {name: [name] for name in computed}


def unpruned_matrices(module: nn.Module, pruned: Collection[str]) -> dict[str, int]:
    """Return the sizes of the matrices of `module` that stay dense, by parameter name.

    A matrix is a parameter with more than one axis that is longer than 1: embeddings, tables of positions, and weights
    that are multiplied by the module's own code are among them.

    Args:
        module: the network.
        pruned: names of the weights that are pruned; a parameter that shares one of these counts as pruned.
    """
    weights = prunable_weights(module, embeddings=True)
    known = {id(weights[name].parameter) for name in pruned}
    return {
        name: parameter.numel()
        for name, parameter in module.named_parameters()
        if id(parameter) not in known and sum(side > 1 for side in parameter.shape) > 1
    }


def weight_keys(module: nn.Module, embeddings: bool = False) -> Iterator[str]:
    """Yield the names of the prunable weights that `module` itself has, without those of its children.

    Args:
        module: any module.
        embeddings: whether embeddings are prunable although they have no mask.
    """
    if isinstance(module, Prunable | nn.Bilinear):
        yield "weight"
    elif isinstance(module, nn.MultiheadAttention):
        one = module._qkv_same_embed_dim
        yield from ["in_proj_weight"] if one else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    elif isinstance(module, nn.RNNBase):
        yield from (key for key in module._flat_weights_names if key.startswith("weight_"))
    elif isinstance(module, nn.RNNCellBase):
        yield from ("weight_ih", "weight_hh")
    elif isinstance(module, EMBEDDINGS) and (embeddings or "weight_mask" in module._buffers):
        yield "weight"
