"""Prediction in 8 bits, in blocks of 64 images."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ersparse.export.folded import FoldedNetwork
from ersparse.export.int8_operands import IMAGES
from ersparse.export.int8_program import Int8Program
from ersparse.export.ranges import Ranges
from ersparse.kernels.compile import int8_library
from ersparse.kernels.int8_abi import ByteOp
from ersparse.kernels.shapes import ImageShape


class Int8Network:
    """Computes a folded network with masks attached, with activations and kept weights of 8 bits.

    Args:
        network: the folded network.
        channels: the channels of the image.
        side: height and width of the image in pixels.
        ranges: of the network's tensors, from `observe`.

    Raises:
        KernelsUnavailable: the kernels cannot be compiled.
        NotCovered: the sums of a channel may exceed 32 bits.
    """

    def __init__(self, network: FoldedNetwork, channels: int, side: int, ranges: Ranges) -> None:
        self._kernels = int8_library()
        sizes = self._kernels.size_of_op(), self._kernels.lanes()
        assert sizes == (ctypes.sizeof(ByteOp), IMAGES), "int8_abi.py differs from int8.cpp"
        self._network, self._ranges = network, ranges
        self._image = ImageShape(channels, side, side)
        self._program = Int8Program(network, self._image, ranges, 1)

    @property
    def is_fast(self) -> bool:
        """Whether the processor has instructions for sums of products of bytes; otherwise float32 is faster."""
        return bool(self._kernels.is_fast())

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Compute the output [B, numbers] of normalised images [B, channels, side, side]."""
        threads = torch.get_num_threads()
        slots = min(-(-len(x) // IMAGES), threads)
        if self._program.slots < slots:
            self._program = Int8Program(self._network, self._image, self._ranges, slots)
        x, outputs = x.float().contiguous(), torch.empty(len(x), self._program.output_size)
        self._program.connect(x, outputs)
        packed = self._program.packed
        self._kernels.run(ctypes.byref(packed), len(packed), len(x), threads)
        return outputs
