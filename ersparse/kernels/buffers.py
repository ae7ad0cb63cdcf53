"""Memory of a program: activations with a border of zeros, numbers of normalisations, kept weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ersparse.kernels import abi
from ersparse.kernels.abi import TensorStruct, pointer
from ersparse.kernels.csr import Kept
from ersparse.kernels.fused_graph import Convolution, NotCovered

HALF = 16  # images of a vector's half, as in kernels.cpp


@dataclass(frozen=True)
class Number:
    """What the kernels compute with, and what they keep activations and their gradients as."""

    real: torch.dtype = torch.float32
    stored: torch.dtype = torch.float32

    @property
    def lanes(self) -> int:
        """Images abreast."""
        return lanes(self.stored)


def lanes(stored: torch.dtype) -> int:
    return 2 * HALF if stored == torch.bfloat16 else HALF


@dataclass(frozen=True)
class Shape:
    """Of an image, without the batch."""

    channels: int
    height: int
    width: int


class Buffer:
    """An activation or its gradient: [blocks, channels, rows, columns, images], zero in its border.

    A block has 16 images; in bfloat16 it has 32, of which 0 to 15 and 16 to 31 alternate.

    Args:
        border: rows above and columns left of the first pixel.
        outer: rows and columns with the border; None for a border that is the same on all sides.
        step: pixels from one to the next, more than 1 for the gradient of a strided convolution.
        slotted: it is scratch, and has a block for each thread only.
    """

    def __init__(
        self,
        shape: Shape,
        blocks: int,
        dtype: torch.dtype,
        border: tuple[int, int] = (0, 0),
        outer: tuple[int, int] | None = None,
        step: int = 1,
        slotted: bool = False,
    ) -> None:
        self.shape, self.border, self.step = shape, border, step
        self.rows, self.columns = outer or (shape.height + 2 * border[0], shape.width + 2 * border[1])
        self.data = torch.zeros(blocks, shape.channels, self.rows, self.columns, lanes(dtype), dtype=dtype)
        self.struct = TensorStruct(
            pointer(self.data), self.data[0].numel(), int(slotted), shape.height, shape.width, self.rows,
            self.columns, border[0] * self.columns + border[1], step,
        )  # fmt: skip

    @property
    def inside(self) -> Tensor:
        """[blocks, channels, height, width, halves, 16]."""
        (top, left), step, shape = self.border, self.step, self.shape
        inside = self.data[:, :, top::step, left::step][:, :, : shape.height, : shape.width]
        if self.data.dtype == torch.bfloat16:
            return inside.view(*inside.shape[:4], HALF, 2).transpose(-1, -2)
        return inside.unsqueeze(-2)

    def put(self, x: Tensor) -> None:
        """[B, C, H, W], or what flattens to it; lanes without an image become zero."""
        shape = self.inside.shape[1:4]
        halves, half = self.inside.shape[4:]
        whole = F.pad(x.reshape(len(x), *shape), (0, 0) * 3 + (0, -len(x) % (halves * half)))
        blocks = whole.view(-1, halves, half, *shape).movedim((1, 2), (-2, -1))
        self.inside[: len(blocks)].copy_(blocks)

    def get(self, count: int) -> Tensor:
        """The first `count` images, [count, C, H, W]."""
        return self.inside.movedim((-2, -1), (1, 2)).flatten(0, 2)[:count].clone(memory_format=torch.contiguous_format)


class Normalisation:
    """The numbers of a step's norm, one a channel, as the kernels want them; identities where there is none."""

    def __init__(self, norm: nn.BatchNorm2d | None, channels: int, blocks: int, real: torch.dtype) -> None:
        self.alpha, self.inverse_std = torch.ones(channels, dtype=real), torch.zeros(channels, dtype=real)
        self.beta, self.mean, self.mean_gradient, self.mean_product = torch.zeros(4, channels, dtype=real)
        self.weight_gradient, self.bias_gradient = torch.zeros(2, channels, dtype=real)
        self.partial = torch.zeros(blocks, channels, 2, dtype=torch.float64)
        self.module = norm

    def struct(self) -> abi.NormStruct:
        numbers: dict[str, Any] = {
            name: pointer(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        if self.module is not None:
            numbers |= {
                name: pointer(getattr(self.module, name)) for name in ("weight", "bias", "running_mean", "running_var")
            }
            assert self.module.momentum is not None
            numbers |= {"epsilon": self.module.eps, "momentum": self.module.momentum}
        return abi.NormStruct(**numbers)


class Weights:
    """The kept weights of one convolution: values, patterns, and room for their gradients."""

    def __init__(self, node: Convolution, mask: Tensor, values: Tensor, source: Buffer, lanes: int) -> None:
        before = source.shape
        self.kernel, self.padding = node.kernel or (before.height, before.width), node.padding
        self.stride, self.bias, self.values = node.stride, node.module.bias, values
        reads, there = mask[0].numel() * node.groups, before.channels * self.kernel[0] * self.kernel[1]
        if reads != there:
            raise NotCovered(f"{node.name}, which reads {reads} numbers of {there}")
        self.kept = Kept.of(mask.reshape(len(mask), -1, *self.kernel), node.groups)
        self.full = int(node.groups == 1 and len(values) == mask.numel())
        self.rows = self.kept.forward(source.rows, source.columns, lanes)
        self.gradient, self.turned = torch.zeros_like(values), torch.empty_like(values)
        self.bias_gradient = values.new_zeros(len(mask))
        self.shape = Shape(
            len(mask),
            (before.height + 2 * node.padding[0] - self.kernel[0]) // node.stride + 1,
            (before.width + 2 * node.padding[1] - self.kernel[1]) // node.stride + 1,
        )
        self.source = before

    @property
    def beyond(self) -> tuple[int, int]:
        """How far outside the output the gradient of the input's first pixel begins to read."""
        return self.kernel[0] - 1 - self.padding[0], self.kernel[1] - 1 - self.padding[1]

    def spread(self) -> dict[str, Any]:
        """How the output's gradient is laid out, so that the gradient of the input is a convolution too."""
        (top, left), out = self.beyond, self.shape
        border = (max(0, top), max(0, left))
        rows = self.source.height + self.kernel[0] - 1 + border[0] - top
        columns = self.source.width + self.kernel[1] - 1 + border[1] - left
        outer = (
            max(rows, border[0] + (out.height - 1) * self.stride + 1),
            max(columns, border[1] + (out.width - 1) * self.stride + 1),
        )
        return {"border": border, "outer": outer, "step": self.stride}

    def shift(self, source: Buffer) -> int:
        """From the first pixel to the first that the kernel reads, which lies in the border."""
        return -(self.padding[0] * source.columns + self.padding[1])

    def shift_back(self, gradient: Buffer) -> int:
        return -(self.beyond[0] * gradient.columns + self.beyond[1])
