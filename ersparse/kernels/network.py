"""A masked network that is computed with its kept weights alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ersparse.kernels.buffers import Number, Shape
from ersparse.kernels.fused_graph import FusedGraph
from ersparse.kernels.program import Program
from ersparse.sparse.layers import prunable_modules
from ersparse.sparse.mask import masks_of


class SparseNetwork(nn.Module):
    """Trains and evaluates `network` with kernels whose cost falls with its density.

    Its parameters are the kept weights of each layer, as one vector in the order of `weight[mask]`, and what else of
    `network` is trained. `gather` takes the kept weights from `network`, where they are frozen; `scatter` puts them
    back, for whoever reads them there. Biases and normalisations are those of `network` itself.

    Args:
        network: on the CPU, its masks attached; a layer without a mask is dense.
        number: float32 or float64 to compute with, and what is kept between layers.

    Raises:
        NotCovered: names what there is no kernel for.
        KernelsUnavailable: they cannot be compiled here.
    """

    def __init__(self, network: nn.Module, number: Number = Number()) -> None:
        super().__init__()
        self.graph, self.number = FusedGraph(network), number
        self._dense = [network]  # in a list, so that its weights are not parameters here
        self.layers = prunable_modules(network)
        self.values = nn.ParameterList()
        for module in self.layers.values():
            module.weight.requires_grad_(False)
        self._programs: dict[Any, Program] = {}
        self.gather()

    def masks(self) -> dict[str, Tensor]:
        """By the name of the weight, contiguous; all ones where there is none."""
        found = masks_of(self._dense[0])
        return {
            name: found.get(name, torch.ones_like(module.weight, dtype=torch.bool)).contiguous()
            for name, module in self.layers.items()
        }

    @torch.no_grad()
    def gather(self) -> None:
        """Takes masks and kept weights from the dense network, as they are now; parameters stay the objects they are.

        Where the number of kept weights has changed, what an optimizer remembers of them has to change too.
        """
        masks = self.masks()
        self._programs.clear()
        for position, (name, module) in enumerate(self.layers.items()):
            values = kept(module.weight, masks[name]).to(self.number.real)
            if position == len(self.values):
                self.values.append(nn.Parameter(values))
            elif self.values[position].shape == values.shape:
                self.values[position].copy_(values)
            else:
                self.values[position].data, self.values[position].grad = values, None

    @torch.no_grad()
    def scatter(self) -> None:
        """Puts the kept weights into the dense network, zeros elsewhere."""
        masks = self.masks()
        for (name, module), values in zip(self.layers.items(), self.values, strict=True):
            module.weight.copy_(dense(values, masks[name]))

    def trained(self) -> list[nn.Parameter]:
        """In the order of the dense network's parameters."""
        values = {id(module.weight): value for module, value in zip(self.layers.values(), self.values, strict=True)}
        return [values.get(id(p), p) for p in self._dense[0].parameters()]

    def train(self, mode: bool = True) -> SparseNetwork:
        self._dense[0].train(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> what the network gives. Statistics of BatchNorm are of the batch while training."""
        if not (self._dense[0].training and torch.is_grad_enabled()):
            return self._program(x, trains=False).forward(x)
        program = self._program(x, trains=True, wants_image=x.requires_grad)
        for norm in self.graph.norms:
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.add_(1)
        output: Tensor = _Run.apply(program, x, *program.parameters)  # type: ignore[no-untyped-call]
        return output

    def _program(self, x: Tensor, trains: bool, wants_image: bool = False) -> Program:
        """Made once for each shape, and again when a tensor that it points to has moved."""
        lie = tuple(p.data_ptr() for p in self.trained())
        key = (tuple(x.shape[1:]), trains, wants_image)
        made_for = (lie, torch.get_num_threads())
        found = self._programs.get(key)
        if found is None or found.images < len(x) or found.made_for != made_for:
            values = dict(zip(self.layers, self.values, strict=True))
            found = Program(
                self.graph, self.masks(), values, Shape(*x.shape[1:]), len(x), self.number, made_for[1], trains,
                wants_image,
            )  # fmt: skip
            found.made_for = made_for
            self._programs[key] = found
        return found


def dense(values: Tensor, mask: Tensor) -> Tensor:
    """Kept numbers in the shape of their mask, zeros elsewhere."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter_(mask, values)


def kept(weights: Tensor, mask: Tensor) -> Tensor:
    """The inverse: a vector in the order of memory."""
    return weights.contiguous()[mask]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.program, ctx.run = program, program.count
        return program.forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        program: Program = ctx.program
        if ctx.run != program.count - 1:
            raise RuntimeError("the network has been run again since; its gradient is that of the last run only")
        image = program.backward(gradient)
        return None, image, *program.parameter_gradients
