"""Prediction in 8 bits, in the layout that suits the batch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ersparse.export.folded import FoldedNetwork
from ersparse.export.int8_operands import VECTOR
from ersparse.export.int8_program import Int8Program
from ersparse.export.ranges import Ranges
from ersparse.kernels.compile import int8_library
from ersparse.kernels.int8_abi import ByteOp
from ersparse.kernels.nodes import NotCovered
from ersparse.kernels.shapes import ImageShape

LAYOUTS = {1: 4, 16: 48}  # the largest batch for which so many images stand side by side; 64 do in larger ones
MANY_THREADS = 4  # with more, each thread takes blocks of its own if there are enough


class Int8Network:
    """Computes a folded network with masks attached, with activations and kept weights of 8 bits.

    Args:
        network: the folded network.
        channels: the channels of the image.
        side: height and width of the image in pixels.
        ranges: of the network's tensors, from `observe`.

    Raises:
        KernelsUnavailable: the kernels cannot be compiled.
        NotCovered: a layer is too large for 32-bit sums or offsets.
    """

    def __init__(self, network: FoldedNetwork, channels: int, side: int, ranges: Ranges) -> None:
        self._kernels = int8_library()
        assert self._kernels.size_of_op() == ctypes.sizeof(ByteOp), "int8_abi.py differs from byte_operation.h"
        self._network, self._ranges = network, ranges
        self._image = ImageShape(channels, side, side)
        self._programs = {(VECTOR, 1): self._build(VECTOR, 1)}  # by images side by side, and blocks at a time
        for images in LAYOUTS:
            try:
                self._programs[images, 1] = self._build(images, 1)
            except NotCovered:  # in this layout; small batches are then computed as 64 images
                break

    @property
    def layouts(self) -> list[int]:
        """The numbers of images that can stand side by side."""
        return [images for images, slots in self._programs if slots == 1]

    @property
    def is_fast(self) -> bool:
        """Whether the processor has instructions for sums of products of bytes; otherwise float32 is faster."""
        return bool(self._kernels.is_fast())

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Compute the output [B, numbers] of normalised images [B, channels, side, side], NaN if one is not finite."""
        images = next((n for n, most in LAYOUTS.items() if len(x) <= most and (n, 1) in self._programs), VECTOR)
        threads = torch.get_num_threads()
        slots = threads if -(-len(x) // images) >= threads > MANY_THREADS else 1
        if (images, slots) not in self._programs:
            self._programs[images, slots] = self._build(images, slots)
        program = self._programs[images, slots]
        x, outputs = x.float().contiguous(), torch.empty(len(x), program.output_size)
        program.connect(x, outputs)
        packed = program.packed
        self._kernels.run(ctypes.byref(packed), len(packed), len(x), images, slots, threads)
        outputs[~x.flatten(1).sum(1).isfinite()] = torch.nan  # bytes have none
        return outputs

    def _build(self, images: int, slots: int) -> Int8Program:
        return Int8Program(self._network, self._image, self._ranges, images, slots)
