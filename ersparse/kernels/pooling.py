"""Pooling: the windows of a fused step, and the modules of PyTorch that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ersparse.kernels.abi import WindowStruct

Pair = tuple[int, int]
POOLS = (
    nn.MaxPool2d
    | nn.AvgPool2d
    | nn.AdaptiveAvgPool2d
    | nn.AdaptiveMaxPool2d
    | nn.MaxPool1d
    | nn.AvgPool1d
    | nn.AdaptiveAvgPool1d
    | nn.Upsample
)


@dataclass(frozen=True)
class Pool:
    """Maxima or averages over windows; all pairs are rows and columns.

    Attributes:
        kind: "max" or "average".
        window: the size of a window; None for adaptive pooling.
        stride: the distance between windows.
        padding: rows above and columns left of the image, and as many after it, which do not count in maxima.
        ceil_mode: whether windows may extend beyond the padding.
        counts_padding: whether averages count the padding as zeros.
        bins: for adaptive pooling the number of windows, which share the image evenly.
        scale: factors of nearest upsampling, which is adaptive: each pixel is the window of as many results.
    """

    kind: str
    window: Pair | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    counts_padding: bool = True
    bins: Pair = (1, 1)
    scale: Pair | None = None

    @property
    def averages(self) -> bool:
        """Whether the pooling computes averages rather than maxima."""
        return self.kind == "average"

    @property
    def is_2x2_maximum(self) -> bool:
        """Whether it takes the maxima of windows of 2 x 2 that neither overlap nor reach beyond the image."""
        window = (self.kind, self.window, self.stride, self.padding, self.ceil_mode)
        return window == ("max", (2, 2), (2, 2), (0, 0), False)

    def output_size(self, height: int, width: int) -> Pair:
        """Return the number of windows in rows and columns for an image."""
        rows, columns = (self._number(axis, size) for axis, size in enumerate((height, width)))
        return rows, columns

    def windows(self, height: int, width: int) -> tuple[WindowStruct, WindowStruct]:
        """Return the windows along rows and columns of an image as the kernels read them."""
        rows, columns = (self._along(axis, size) for axis, size in enumerate((height, width)))
        return rows, columns

    def build(self) -> nn.Module:
        """Return the PyTorch module of this pooling."""
        if self.scale:
            return nn.Upsample(scale_factor=(float(self.scale[0]), float(self.scale[1])))
        if self.window is None:
            return (nn.AdaptiveMaxPool2d if self.kind == "max" else nn.AdaptiveAvgPool2d)(self.bins)
        if self.kind == "max":
            return nn.MaxPool2d(self.window, self.stride, self.padding, ceil_mode=self.ceil_mode)
        return nn.AvgPool2d(self.window, self.stride, self.padding, self.ceil_mode, self.counts_padding)

    def _number(self, axis: int, size: int) -> int:
        if self.window is None:
            return self.scale[axis] * size if self.scale else self.bins[axis]
        stride, padding = self.stride[axis], self.padding[axis]
        beyond = size + 2 * padding - self.window[axis]
        if not self.ceil_mode:
            return beyond // stride + 1
        number = -(-beyond // stride) + 1
        return number - ((number - 1) * stride >= size + padding)  # a window begins inside the image or before it

    def _along(self, axis: int, size: int) -> WindowStruct:
        number = self._number(axis, size)
        if self.window is None and size % number:
            return WindowStruct(size=size, window=-(-size // number) + 1, bins=number)
        window, stride, padding = (
            (size // number, size // number, 0)
            if self.window is None
            else (self.window[axis], self.stride[axis], self.padding[axis])
        )
        disjoint = window == stride and not padding and number * window <= size
        counted = padding if self.counts_padding else 0
        return WindowStruct(
            size=size, window=window, stride=stride, padding=padding, counted_padding=counted, disjoint=disjoint
        )


def windows_of(pool: Pool | None, height: int, width: int) -> tuple[WindowStruct, WindowStruct]:
    """Return the windows of a pooling along rows and columns as the kernels read them; single pixels for None."""
    return (pool or Pool("max", (1, 1))).windows(height, width)


def pool_of(module: POOLS) -> Pool | str:
    """Return the pooling that a module computes, or in words what of it is not covered."""
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        bins, average = pair(module.output_size), isinstance(module, nn.AdaptiveAvgPool2d)
        if None in bins or (not average and module.return_indices):
            return f"to {module.output_size}"
        return Pool("average" if average else "max", bins=bins)
    if isinstance(module, nn.AdaptiveAvgPool1d):
        return Pool("average", bins=(1, along(module.output_size)))
    if isinstance(module, nn.Upsample):
        return _upsampling(module)
    one_axis = isinstance(module, nn.MaxPool1d | nn.AvgPool1d)
    window, stride, padding = (
        (fill, along(value)) if one_axis else pair(value)
        for value, fill in ((module.kernel_size, 1), (module.stride, 1), (module.padding, 0))
    )
    if isinstance(module, nn.MaxPool2d | nn.MaxPool1d):
        if set(pair(module.dilation)) != {1} or module.return_indices:
            return "with dilation or indices"
        return Pool("max", window, stride, padding, module.ceil_mode)
    if getattr(module, "divisor_override", None):
        return "with divisor_override"
    return Pool("average", window, stride, padding, module.ceil_mode, module.count_include_pad)


def _upsampling(module: nn.Upsample) -> Pool | str:
    factors = module.scale_factor if isinstance(module.scale_factor, tuple) else (module.scale_factor,) * 2
    if module.mode != "nearest" or not all(factor and factor == int(factor) >= 1 for factor in factors):
        return f"of mode {module.mode}, other than nearest by a whole scale_factor"
    return Pool("average", scale=(int(factors[0] or 1), int(factors[1] or 1)))


def along(value: Any) -> Any:
    """Return the number of a one-dimensional module, which may be in a tuple."""
    return value[0] if isinstance(value, tuple | list) else value


def pair(value: Any) -> Any:
    """Return a number twice, or a pair as it is."""
    return (value, value) if isinstance(value, int) or value is None else (value[0], value[1])
