"""Few images: vectors over the pixels of one, where the layout of sixteen images abreast would be mostly empty.

The pixels of a channel lie one after the other, its border included, so that a kept weight is still one number times
contiguous vectors. They run on over the ends of rows; what is computed there is never looked at.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from ersparse.export.folded import Folded, Layer, Part
from ersparse.kernels import abi
from ersparse.kernels.abi import Op, TensorStruct, pointer
from ersparse.kernels.compile import library
from ersparse.kernels.pattern import LANES, Kept
from ersparse.sparse.layers import Prunable, prunable_modules
from ersparse.sparse.mask import masks_of


class Convolution:
    """A layer of a network on one image [channels, height, width]; strides leave out what was computed between."""

    def __init__(self, layer: Layer, module: Prunable, mask: Tensor, shape: torch.Size, relu: bool) -> None:
        channels, height, width = shape
        kernel = tuple(layer.shape[2:]) or (height, width)
        rows, columns = height + 2 * layer.padding[0], width + 2 * layer.padding[1]
        out_rows, out_columns = rows - kernel[0] + 1, columns - kernel[1] + 1
        kept = Kept.of(mask.reshape(len(mask), -1, *kernel), layer.groups).forward(rows, columns)
        vectors = -(-((out_rows - 1) * columns + out_columns) // LANES)
        self.read = torch.zeros(channels * rows * columns + LANES)  # the last vector may read beyond
        self.written = torch.zeros(len(mask), vectors * LANES)
        planes = self.read[: channels * rows * columns].view(channels, rows, columns)
        self.image = planes[:, layer.padding[0] :, layer.padding[1] :][:, :height, :width]
        inside = self.written.as_strided((len(mask), out_rows, out_columns), (vectors * LANES, columns, 1))
        self.result = inside[:, :: layer.stride, :: layer.stride]
        self.alive = kept.starts, kept.offsets // LANES, module.weight[mask], module.bias
        starts, offsets, values, bias = map(pointer, self.alive)
        self.op = Op(
            kind=abi.CONVOLVE, channels=len(mask), rows=starts, offsets=offsets, weight=values, bias=bias, stride=1,
            relu=int(relu), input=TensorStruct(data=pointer(self.read), rows=1, columns=vectors),
            output=TensorStruct(data=pointer(self.written), height=1, width=vectors, rows=1, columns=vectors),
        )  # fmt: skip
        self.run = library("float", "float").run

    def __call__(self, image: Tensor) -> Tensor:
        """The result is overwritten by the next call."""
        self.image.copy_(image.view(self.image.shape))
        self.run(ctypes.byref(self.op), 1, 1, torch.get_num_threads())
        return self.result


class FewImages:
    """Computes `network`, its masks attached, an image at a time.

    Raises:
        KernelsUnavailable: they cannot be compiled here.
    """

    def __init__(self, network: Folded, channels: int, side: int) -> None:
        self.network = network
        self.convolutions: list[Convolution | None] = []
        masks, weighted = masks_of(network), iter(prunable_modules(network).items())
        results = [torch.zeros(channels, side, side)]
        for part, after in zip(network.parts, network.afters, strict=True):
            convolution = None
            if part.layer:
                name, module = next(weighted)
                alone = part.relu and part.residual is None
                convolution = Convolution(part.layer, module, masks[name], results[part.source].shape, alone)
            self.convolutions.append(convolution)
            results.append(self._result(part, convolution, after, results))

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """[B, channels, side, side] -> the output, [B, ...]."""
        return torch.stack([self._one(image) for image in x])

    def _one(self, image: Tensor) -> Tensor:
        results = [image]
        for part, convolution, after in zip(self.network.parts, self.convolutions, self.network.afters, strict=True):
            results.append(self._result(part, convolution, after, results))
        return results[-1].flatten().clone()

    def _result(self, part: Part, convolution: Convolution | None, after: nn.Module, results: list[Tensor]) -> Tensor:
        x = results[part.source]
        y = convolution(x) if convolution else x
        y = y if part.residual is None else y + results[part.residual]
        result: Tensor = after(y)
        return result
