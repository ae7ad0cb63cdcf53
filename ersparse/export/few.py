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
from ersparse.kernels.compile import library
from ersparse.kernels.pattern import LANES, Kept
from ersparse.sparse.layers import Prunable, prunable_modules
from ersparse.sparse.mask import masks_of

Shape = tuple[int, int, int]  # channels, height, width


class Planes:
    """Room for an image whose channels lie one after the other, each with a border of zeros."""

    def __init__(self, shape: Shape, border: tuple[int, int] = (0, 0)) -> None:
        channels, height, width = shape
        self.rows, self.columns = height + 2 * border[0], width + 2 * border[1]
        size = self.rows * self.columns
        self.data = torch.zeros(channels * size + LANES)  # the last vector may read beyond
        self.image = self.data[: channels * size].view(channels, self.rows, self.columns)
        self.struct = TensorStruct(
            data=pointer(self.data), block_size=size, columns=self.columns, height=height, width=width,
            origin=border[0] * self.columns + border[1], step=1,
        )  # fmt: skip


class Convolution:
    """A layer on one image; strides leave out what was computed between."""

    def __init__(self, layer: Layer, module: Prunable, mask: Tensor, shape: Shape, relu: bool) -> None:
        kernel = layer.shape[2:] or shape[1:]
        self.read = Planes(shape, (layer.padding[0], layer.padding[1]))
        columns = self.read.columns
        height, width = self.read.rows - kernel[0] + 1, columns - kernel[1] + 1
        kept = Kept.of(mask.reshape(len(mask), -1, *kernel), layer.groups).forward(self.read.rows, columns)
        vectors = -(-((height - 1) * columns + width) // LANES)
        self.shape = (len(mask), -(-height // layer.stride), -(-width // layer.stride))
        written = torch.empty(len(mask), vectors * LANES)
        self.struct = TensorStruct(
            data=pointer(written), block_size=vectors * LANES, columns=columns, height=self.shape[1],
            width=self.shape[2], step=layer.stride,
        )  # fmt: skip
        self.alive = kept.starts, kept.offsets // LANES, module.weight[mask], module.bias, written
        starts, offsets, values, bias, _ = map(pointer, self.alive)
        self.op = Op(
            kind=abi.CONVOLVE, channels=len(mask), rows=starts, offsets=offsets, weight=values, bias=bias, stride=1,
            relu=int(relu), input=TensorStruct(data=pointer(self.read.data), rows=1, columns=vectors),
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
        self.results = [Planes((channels, side, side))]
        shapes: list[Shape] = [(channels, side, side)]
        self.convolutions: list[Convolution] = []
        ops = []
        for part in network.parts:
            before, shape = self.results[part.source].struct, shapes[part.source]
            if part.layer:
                name, module = next(weighted)
                convolution = Convolution(part.layer, module, masks[name], shape, part.relu and part.residual is None)
                ops += [_between(before, convolution.read.struct, shape[0], Part(0)), convolution.op]
                before, shape = convolution.struct, convolution.shape
                self.convolutions.append(convolution)
            window = part.window or shape[1:]
            shapes.append((shape[0], shape[1] // window[0], shape[2] // window[1]))
            self.results.append(Planes(shapes[-1]))
            residual = None if part.residual is None else self.results[part.residual].struct
            ops.append(_between(before, self.results[-1].struct, shape[0], part, residual))
        self.ops = (Op * len(ops))(*ops)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """[B, channels, side, side] -> the output, [B, ...]."""
        return torch.stack([self._one(image) for image in x])

    def _one(self, image: Tensor) -> Tensor:
        self.results[0].image.copy_(image)
        self.run(ctypes.byref(self.ops), len(self.ops), 1, torch.get_num_threads())
        return self.results[-1].image.flatten().clone()


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
