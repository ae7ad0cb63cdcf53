"""Figures of a layer after a rewiring update, computed on the device of its mask without reading them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ersparse.sparse.degrees import degrees
from ersparse.sparse.layers import Layer
from ersparse.sparse.rewiring import Change


class LayerFigures(NamedTuple):
    """The figures of one layer, all scalars: tensors on the device, or numbers once they have been read.

    Attributes:
        nonzero: kept weights.
        removed, grown: weights that the update removed and grew.
        overlap: kept weights that the source network had.
        explored: fraction of all weights that were ever active.
        no_input, no_output: output channels with in-degree 0, input channels with out-degree 0.
        in_min, in_median, in_max, out_min, out_median, out_max: of the in-degrees and out-degrees.
    """

    nonzero: Tensor
    removed: Tensor
    grown: Tensor
    overlap: Tensor
    explored: Tensor
    no_input: Tensor
    no_output: Tensor
    in_min: Tensor
    in_median: Tensor
    in_max: Tensor
    out_min: Tensor
    out_median: Tensor
    out_max: Tensor

    def stacked(self) -> Tensor:
        """Return the figures as one tensor, in float64, which represents all of them exactly; Apple's GPUs lack it."""
        dtype = torch.float32 if self.nonzero.device.type == "mps" else torch.float64
        return torch.stack([figure.to(dtype) for figure in self])


def layer_figures(mask: Tensor, layer: Layer, source: Tensor, ever: Tensor, change: Change | None) -> LayerFigures:
    """Return the figures of a layer.

    Args:
        mask: active weights of the layer.
        layer: the layer.
        source: active weights of the source network.
        ever: weights that were ever active.
        change: the change by the update; None for the source network itself.
    """
    in_degrees, out_degrees = degrees(mask, layer)
    none = mask.new_zeros((), dtype=torch.long)
    return LayerFigures(
        mask.sum(),
        change.removed.sum() if change else none,
        change.grown.sum() if change else none,
        (mask & source).sum(),
        ever.float().mean(),
        (in_degrees == 0).sum(),
        (out_degrees == 0).sum(),
        *_min_median_max(in_degrees),
        *_min_median_max(out_degrees),
    )


def _min_median_max(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ordered = values.sort().values
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return ordered[0], middle, ordered[-1]
