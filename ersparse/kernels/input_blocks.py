"""Cache blocking of convolutions: all output channels read one block of input channels before the next block.

What they read of a block stays in the first-level cache, which delivers two vectors per cycle; the second-level cache
delivers one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ersparse.kernels.csr import CSRPattern

TILE = 16  # vectors of sums that stay in registers: TILE in vectors.h for float32 and AVX-512
L1_BYTES = 32 << 10  # first-level data cache of common processors
MIN_WEIGHTS = 20  # kept weights of an output channel in a block that are worth writing its sums and reading them again


@dataclass(frozen=True)
class InputBlocks:
    """The kept weights of each output channel, divided by the block of input channels that they read.

    Attributes:
        segments: int32 [count + 1, n_out]; the weights of channel c that read block b are those from segments[b, c] to
            segments[b + 1, c].
        count: number of blocks.
    """

    segments: Tensor
    count: int

    @classmethod
    def of(cls, pattern: CSRPattern, n_in: int, window_bytes: int) -> InputBlocks:
        """Return the blocks of a layer.

        Args:
            pattern: the kept weights.
            n_in: input channels.
            window_bytes: what a tile of output pixels reads of one input channel, in bytes.
        """
        pointers = pattern.row_pointers.numpy()
        n_out = len(pointers) - 1
        size = channels_per_block(n_in, len(pattern.offsets) / max(1, n_out * n_in), window_bytes)
        count = -(-n_in // size)
        channel = np.repeat(np.arange(n_out), np.diff(pointers))
        block = pattern.offsets.numpy().astype(np.int64) // (size * pattern.plane)
        starts = np.searchsorted(channel * count + block, np.arange(n_out * count)).reshape(n_out, count)
        segments = np.concatenate([starts.T, pointers[np.newaxis, 1:]])
        return cls(torch.from_numpy(segments.astype(np.int32, order="C")), count)


def window_bytes(
    output: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    vectors: int = 1,
    bytes_per_pixel: int = 64,
) -> int:
    """Return what a tile of output pixels reads of one input channel, in bytes.

    Args:
        output: rows and columns of the output, in pixels.
        kernel: rows and columns that the kernel covers, in pixels.
        stride: distance in the input between adjacent pixels of the output, in rows and columns.
        vectors: vectors of sums for each pixel.
        bytes_per_pixel: bytes of one pixel of all images that lie side by side in memory.
    """
    tile = TILE // vectors
    columns = min(output[1], tile // 2 if output[0] > 1 else tile)
    rows = min(output[0], tile // columns)
    height, width = ((n - 1) * s + k for n, s, k in zip((rows, columns), stride, kernel, strict=True))
    return height * width * bytes_per_pixel


def channels_per_block(n_in: int, weights_per_channel: float, window_bytes: int) -> int:
    """Return how many input channels a block has: all of them if blocks do not pay.

    A block has as many channels as fit the first-level cache. Where that leaves an output channel fewer weights than
    `MIN_WEIGHTS`, it has more channels, up to twice the cache; beyond that, nothing is gained.

    Args:
        n_in: input channels.
        weights_per_channel: kept weights per pair of an output and an input channel.
        window_bytes: what a tile of output pixels reads of one input channel, in bytes.
    """
    size = max(1, L1_BYTES // window_bytes)
    if size * weights_per_channel < MIN_WEIGHTS:
        size = int(np.ceil(MIN_WEIGHTS / max(weights_per_channel, 1e-9)))
    return n_in if size * window_bytes > 2 * L1_BYTES else min(size, n_in)
