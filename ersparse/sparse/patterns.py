"""Structured masks: N of M consecutive inputs, and blocks of channels.

Both are patterns of a layer's weight as a matrix with one row for each output channel, at each position of the kernel:
"2:4" keeps 2 of every 4 consecutive input channels, as sparse tensor cores have it (Mishra et al. 2021); "4x2" keeps
or removes blocks of 4 consecutive output channels and 2 consecutive input channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ersparse.errors import UserError
from ersparse.sparse.degrees import Kernels
from ersparse.sparse.fan_in import choose, move_to
from ersparse.sparse.flow_repair import Counts, Random, none
from ersparse.sparse.layers import Layer


@dataclass(frozen=True)
class NOfM:
    """N of M consecutive input channels are kept, for each output channel and position of the kernel.

    Attributes:
        n: kept weights of a group.
        m: weights of a group.
    """

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def misfit(self, layer: Layer) -> str | None:
        """Return why a layer cannot have the pattern, or None."""
        inputs = layer.n_in // layer.groups
        return None if inputs % self.m == 0 else f"has {inputs} inputs, no multiple of {self.m}"

    def split(self, layer: Layer, tensor: Tensor) -> Tensor:
        """Return a tensor in the shape of the layer as a matrix [groups, M]."""
        return layer.to_rows(tensor).movedim(1, -1).reshape(-1, self.m)

    def join(self, layer: Layer, groups: Tensor) -> Tensor:
        """Return a matrix [groups, M] in the shape of the layer, the inverse of `split`."""
        outputs, inputs, *kernel = layer.rows_shape
        return layer.from_rows(groups.reshape(outputs, *kernel, inputs).movedim(-1, 1).contiguous())

    def fits(self, layer: Layer, mask: Tensor) -> bool:
        """Return whether a mask has the pattern."""
        return self.misfit(layer) is None and bool((self.split(layer, mask).sum(1) == self.n).all())

    def draw(self, layer: Layer, random: Random) -> Tensor:
        """Draw a mask, uniformly among all with the pattern."""
        return self.join(layer, torch.from_numpy(choose(layer.size // self.m, self.m, self.n, random)))

    def move(self, mask: Tensor, layer: Layer, random: Random) -> tuple[Tensor, Counts]:
        """Give every input channel an edge, by moving weights within their groups, as far as they suffice."""
        _, counts = none(mask, layer, 1.0, random)
        kernels, moved = Kernels(mask, layer), 0
        for column in np.flatnonzero(kernels.column_degree == 0).tolist():
            start = column % kernels.columns_per_group // self.m * self.m
            moved += move_to(kernels, column, random, slice(start, start + self.m))
        return kernels.mask(layer), replace(counts, moved_out=moved)


@dataclass(frozen=True)
class Blocks:
    """Blocks of consecutive output and input channels are kept or removed, at each position of the kernel.

    Blocks are drawn, repaired and rewired as the weights of a smaller layer, `reduced`.

    Attributes:
        rows: output channels of a block.
        columns: input channels of a block.
    """

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    def misfit(self, layer: Layer) -> str | None:
        """Return why a layer cannot have the pattern, or None."""
        outputs, inputs = layer.n_out // layer.groups, layer.n_in // layer.groups
        if outputs % self.rows == 0 and inputs % self.columns == 0:
            return None
        return f"has {outputs} outputs and {inputs} inputs, no multiples of {self.rows} and {self.columns}"

    def reduced(self, layer: Layer) -> Layer:
        """Return the layer of which each block is a weight."""
        outputs, inputs, *kernel = layer.rows_shape
        return Layer(layer.name, (outputs // self.rows, inputs // self.columns, *kernel), layer.groups)

    def reduce(self, layer: Layer, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over each block, in the shape of `reduced`; for a mask, whether any is kept."""
        outputs, inputs, *kernel = self.reduced(layer).shape
        parts = layer.to_rows(tensor).reshape(outputs, self.rows, inputs, self.columns, *kernel)
        return parts.any(3).any(1) if tensor.dtype == torch.bool else parts.sum((1, 3))

    def expand(self, layer: Layer, blocks: Tensor) -> Tensor:
        """Return a tensor of blocks in the shape of the layer."""
        rows = blocks.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        return layer.from_rows(rows)

    def fits(self, layer: Layer, mask: Tensor) -> bool:
        """Return whether a mask has the pattern."""
        return self.misfit(layer) is None and self.expand(layer, self.reduce(layer, mask)).equal(mask)


Pattern = NOfM | Blocks


def pattern_named(text: str) -> Pattern:
    """Return the pattern of "N:M" or "RxC"."""
    kind = NOfM if ":" in text else Blocks
    first, second = (int(number) for number in text.replace("x", ":").split(":"))
    return kind(first, second)


def checked_pattern(text: str, layers: Sequence[Layer], densities: Sequence[float], prefix: str = "") -> Pattern:
    """Return a pattern that layers can have at their densities. Layers of density 0 or 1 need none.

    Args:
        text: the pattern, "N:M" or "RxC".
        layers: the layers.
        densities: the densities of the layers.
        prefix: what precedes the names of keys in a message.

    Raises:
        UserError: they cannot.
    """
    pattern, where = pattern_named(text), f"{prefix}pattern={text}"
    drawn = [(layer, p) for layer, p in zip(layers, densities, strict=True) if 0 < p < 1]
    if unfit := [layer for layer, _ in drawn if pattern.misfit(layer)]:
        names = ",".join(layer.name for layer in unfit)
        raise UserError(
            f"{where}: {unfit[0].name} {pattern.misfit(unfit[0])}; {prefix}exclude=[{names}] leaves such layers dense"
        )
    for layer, p in drawn:
        if isinstance(pattern, NOfM) and abs(p - pattern.n / pattern.m) * layer.size > 0.5:
            raise UserError(
                f"{where}: keeps {pattern.n / pattern.m:g} of each layer, but {layer.name} is to have density {p:.6g}; "
                f"must be uniform at {prefix}level={1 - pattern.n / pattern.m:g}"
            )
    return pattern
