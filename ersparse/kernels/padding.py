"""Zero padding of convolutions, which may differ before and after the image."""

from __future__ import annotations

from typing import Any, NamedTuple

from ersparse.kernels.nodes import Node


class Padded(NamedTuple):
    """A tensor with zero rows and columns around it, which convolutions alone may read."""

    value: Node
    before: tuple[int, int]
    after: tuple[int, int]


def paddings(
    padding: Any, kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding of a convolution in rows and columns, before and after the image."""
    if padding == "same":  # an odd number of rows or columns has one more after the image
        rows, columns = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        return (rows // 2, columns // 2), (rows - rows // 2, columns - columns // 2)
    both = (0, 0) if padding == "valid" else padding
    return both, both


def axes_of(value: tuple[int, ...], fill: int) -> tuple[int, int]:
    """Return rows and columns of a pair, or of the only axis of a one-dimensional convolution, which has one row."""
    return (fill, value[0]) if len(value) == 1 else (value[0], value[1])
