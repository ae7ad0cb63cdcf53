"""Few images: vectors over the pixels of one, where the layout of sixteen images abreast would be mostly empty.

The pixels of a channel lie one after the other, its border included, so that a kept weight is still one number times
contiguous vectors. They run on over the ends of rows; what is computed there is never looked at. An image goes through
all layers in one call.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from ersparse.export.folded import Folded, Layer, Part
from ersparse.kernels import abi
from ersparse.kernels.abi import Op, TensorStruct, pointer
from ersparse.kernels.buffers import HALF as LANES
from ersparse.kernels.compile import library
from ersparse.kernels.csr import Kept
from ersparse.sparse.layers import Prunable, prunable_modules
from ersparse.sparse.mask import masks_of

Shape = tuple[int, int, int]  # channels, height, width


class Planes:
    """Room for an image whose channels lie one after the other, each with a border of zeros."""

    def __init__(self, shape: Shape, border: tuple[int, int]) -> None:
        channels, height, width = shape
        self.shape, self.border = shape, border
        self.rows, self.columns = height + 2 * border[0], width + 2 * border[1]
        size = self.rows * self.columns
        self.data = torch.zeros(channels * size + LANES)  # the last vector may read beyond
        self.struct = TensorStruct(
            data=pointer(self.data), block_size=size, columns=self.columns, height=height, width=width,
            origin=border[0] * self.columns + border[1], step=1,
        )  # fmt: skip

    @property
    def inside(self) -> Tensor:
        channels, height, width = self.shape
        planes = self.data[:-LANES].view(channels, self.rows, self.columns)
        return planes[:, self.border[0] :, self.border[1] :][:, :height, :width]


class Convolution:
    """A layer on one image; strides leave out what was computed between."""

    def __init__(self, layer: Layer, module: Prunable, mask: Tensor, source: Planes, relu: bool) -> None:
        kernel, columns = layer.shape[2:] or source.shape[1:], source.columns
        height, width = (n + 2 * p - k + 1 for n, p, k in zip(source.shape[1:], layer.padding, kernel, strict=True))
        kept = Kept.of(mask.reshape(len(mask), -1, *kernel), layer.groups).forward(source.rows, columns)
        vectors = -(-((height - 1) * columns + width) // LANES)
        self.shape = (len(mask), -(-height // layer.stride), -(-width // layer.stride))
        written = torch.empty(len(mask), vectors * LANES)
        self.struct = TensorStruct(
            data=pointer(written), block_size=vectors * LANES, columns=columns, height=self.shape[1],
            width=self.shape[2], step=layer.stride,
        )  # fmt: skip
        above, left = (b - p for b, p in zip(source.border, layer.padding, strict=True))
        read = source.data[above * columns + left :]
        self.alive = kept.starts, kept.offsets, module.weight[mask], module.bias, read, written
        starts, offsets, values, bias, *_ = map(pointer, self.alive)
        self.op = Op(
            kind=abi.CONVOLVE, channels=len(mask), rows=starts, offsets=offsets, weight=values, bias=bias, stride=1,
            relu=int(relu), input=TensorStruct(data=pointer(read), rows=1, columns=vectors),
            output=TensorStruct(data=pointer(written), height=1, width=vectors, rows=1, columns=vectors),
        )  # fmt: skip


class FewImages:
    """Computes `network`, its masks attached, an image at a time.

    Raises:
        KernelsUnavailable: they cannot be compiled here.
    """

    def __init__(self, network: Folded, channels: int, side: int) -> None:
        self.run = library("float", "float").run
        masks, weighted = masks_of(network), iter(prunable_modules(network).items())
        borders = [(0, 0)] * (len(network.parts) + 1)
        for part in network.parts:
            if part.layer:
                above, left = borders[part.source]
                borders[part.source] = (max(above, part.layer.padding[0]), max(left, part.layer.padding[1]))
        self.results = [Planes((channels, side, side), borders[0])]
        self.convolutions: list[Convolution] = []
        ops = []
        for part, border in zip(network.parts, borders[1:], strict=True):
            source = self.results[part.source]
            before, shape = source.struct, source.shape
            if part.layer:
                name, module = next(weighted)
                convolution = Convolution(part.layer, module, masks[name], source, part.relu and part.residual is None)
                ops.append(convolution.op)
                before, shape = convolution.struct, convolution.shape
                self.convolutions.append(convolution)
            window = part.window or shape[1:]
            result = Planes((shape[0], shape[1] // window[0], shape[2] // window[1]), border)
            residual = None if part.residual is None else self.results[part.residual].struct
            ops.append(_between(before, result.struct, shape[0], part, residual))
            self.results.append(result)
        self.ops = (Op * len(ops))(*ops)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """[B, channels, side, side] -> the output, [B, ...]."""
        return torch.stack([self._one(image) for image in x])

    def _one(self, image: Tensor) -> Tensor:
        self.results[0].inside.copy_(image)
        self.run(ctypes.byref(self.ops), len(self.ops), 1, torch.get_num_threads())
        return self.results[-1].inside.flatten().clone()


def _between(
    source: TensorStruct, target: TensorStruct, channels: int, part: Part, residual: TensorStruct | None = None
) -> Op:
    """pool(relu(source + residual)) of `part`, into `target`."""
    window = part.window or (source.height, source.width)
    more: dict[str, Any] = {} if residual is None else {"residual": residual}
    return Op(
        kind=abi.PLANES, channels=channels, input=source, output=target, has_residual=len(more), relu=int(part.relu),
        average=int(part.pool == "average"), pool_height=window[0], pool_width=window[1], **more,
    )  # fmt: skip
