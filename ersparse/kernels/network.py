"""Sparse execution of a masked network: its parameters are the kept weights, and its cost falls with the density."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ersparse.kernels.buffers import Precision
from ersparse.kernels.fused_graph import FusedGraph
from ersparse.kernels.program import Program
from ersparse.kernels.shapes import image_shape
from ersparse.kernels.workspace import Workspace
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import masks_of


class SparseNetwork(nn.Module):
    """Trains and evaluates a masked network by sparse CPU kernels.

    The parameters of this module are the kept weights, one vector per layer in the order of `weight[mask]`. Biases and
    batch normalisations are shared with `network`; its weights are frozen. `gather` copies masks and kept weights from
    `network`, `scatter` copies the kept weights back. Between the two `release` frees the memory of the dense weights.

    Args:
        network: on the CPU, with masks attached; a layer without a mask is dense.
        precision: data types of computation and storage.

    Raises:
        NotCovered: names an operation that has no kernel.
    """

    def __init__(self, network: nn.Module, precision: Precision = Precision()) -> None:
        super().__init__()
        self._graphs = {True: FusedGraph(network), False: FusedGraph(network, evaluation=True)}  # by training mode
        self.precision = precision
        self._dense = [network]  # in a list, so that its weights are not registered as parameters of this module
        self.layers = prunable_weights(network)
        self.values = nn.ParameterList()
        self._strides: dict[str, tuple[int, ...]] = {}  # of the dense weights, while they are released
        for held in self.layers.values():
            held.weight.requires_grad_(False)
        self._programs: dict[Any, tuple[Any, Program]] = {}
        self.gather()

    def masks(self) -> dict[str, Tensor]:
        """Return contiguous masks by parameter name; that of a layer without a mask is all ones."""
        found = masks_of(self._dense[0])
        return {
            name: found.get(name, torch.ones_like(held.weight, dtype=torch.bool)).contiguous()
            for name, held in self.layers.items()
        }

    @torch.no_grad()
    def gather(self) -> None:
        """Copy masks and kept weights from the dense network; the parameters remain the same objects.

        If the number of a layer's kept weights has changed, the caller updates the optimizer's state.
        """
        masks = self.masks()
        assert not self._strides, "the dense weights have been released; call scatter first"
        self._programs.clear()
        for position, (name, held) in enumerate(self.layers.items()):
            values = to_kept(held.weight, masks[name]).to(self.precision.compute_dtype)
            if position == len(self.values):
                self.values.append(nn.Parameter(values))
            elif self.values[position].shape == values.shape:
                self.values[position].copy_(values)
            else:
                self.values[position].data, self.values[position].grad = values, None

    @torch.no_grad()
    def scatter(self) -> None:
        """Copy the kept weights into the dense network, and set its other weights to zero."""
        masks = self.masks()
        for (name, held), values in zip(self.layers.items(), self.values, strict=True):
            if name in self._strides:
                held.weight.data = held.weight.new_empty_strided(held.weight.shape, self._strides[name])
            held.weight.copy_(to_dense(values, masks[name]))
        self._strides.clear()

    @torch.no_grad()
    def release(self) -> None:
        """Free the memory of the dense network's weights until `scatter`; all elements of each share one zero."""
        if not self._strides:
            self._strides = {name: held.weight.stride() for name, held in self.layers.items()}
            for held in self.layers.values():
                held.weight.data = held.weight.new_zeros(()).expand(held.weight.shape)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters for the optimizer, in the order of the dense network's `parameters()`."""
        values = {id(held.weight): value for held, value in zip(self.layers.values(), self.values, strict=True)}
        return [values.get(id(p), p) for p in self._dense[0].parameters()]

    def train(self, mode: bool = True) -> SparseNetwork:
        """Set training mode here and in the dense network, whose mode the forward pass reads."""
        self._dense[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output of a batch [B, C, H, W], [B, C, L] or [B, F], in training mode by its own statistics.

        Raises:
            KernelsUnavailable: the kernels cannot be compiled.
            NotCovered: a linear layer does not fit the image size.
        """
        if not (self._dense[0].training and torch.is_grad_enabled()):
            return self._program(x, training=False).forward(x)
        program = self._program(x, training=True, needs_input_gradient=x.requires_grad)
        for norm in self._graphs[True].norms:
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.add_(1)
        output: Tensor = _RunProgram.apply(program, x, *program.parameters)  # type: ignore[no-untyped-call]
        return output

    def _program(self, x: Tensor, training: bool, needs_input_gradient: bool = False) -> Program:
        """Return the cached program for the shape of `x`.

        It is rebuilt for a larger batch, for another number of threads, and when a parameter has moved in memory.
        """
        shape = image_shape(x.shape[1:])
        key = (shape, training, needs_input_gradient)
        threads = torch.get_num_threads()
        version = (tuple(p.data_ptr() for p in self.trainable_parameters()), threads)
        built_for, program = self._programs.get(key, (None, None))
        if program is None or program.workspace.max_images < len(x) or built_for != version:
            values = dict(zip(self.layers, self.values, strict=True))
            workspace = Workspace(
                self._graphs[training], self.masks(), values, shape, len(x), self.precision, threads, training,
                needs_input_gradient,
            )  # fmt: skip
            program = Program(workspace)
            self._programs[key] = version, program
        return program


def to_dense(values: Tensor, mask: Tensor) -> Tensor:
    """Return a tensor in the shape of `mask` with `values` [kept weights] where it is true, and zeros elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(mask, values)


def to_kept(weights: Tensor, mask: Tensor) -> Tensor:
    """Return the elements of `weights` where `mask` is true, as a vector [kept weights]; the inverse of `to_dense`."""
    return weights.contiguous()[mask]


class _RunProgram(torch.autograd.Function):
    """Autograd function of a program; buffers are reused, so only the latest forward pass has a backward pass."""

    @staticmethod
    def forward(ctx: Any, program: Program, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.program, ctx.run, ctx.shape = program, program.runs, x.shape
        return program.forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        program: Program = ctx.program
        if ctx.run != program.runs - 1:
            raise RuntimeError(
                "the network has been run again since this forward pass, and its buffers were overwritten; "
                "call backward before the next forward pass"
            )
        image = program.backward(gradient)
        return None, image if image is None else image.view(ctx.shape), *program.parameter_gradients
