"""A summary of a sparse network: what each layer keeps, and the density over all of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ersparse.sparse.degrees import zero_degrees
from ersparse.sparse.layers import prunable_layers, unpruned_matrices
from ersparse.sparse.mask import masks_of
from ersparse.sparse.wrappers import unwrapped


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a summary.

    Attributes:
        name: name of the parameter.
        shape: its shape.
        size: number of weights.
        kept: number of kept weights; all of them without a mask.
        dead_outputs: output channels without a kept weight.
        dead_inputs: input channels without a kept weight.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    kept: int
    dead_outputs: int
    dead_inputs: int

    @property
    def density(self) -> float:
        """Kept weights divided by all weights."""
        return self.kept / self.size


@dataclass(frozen=True)
class Summary:
    """The summary of a network; `str` and `print` give a table.

    Attributes:
        layers: the prunable layers, in the order of the network.
        unpruned: sizes of the matrices that stay dense, such as embeddings, by parameter name.
    """

    layers: list[LayerSummary]
    unpruned: dict[str, int]

    @property
    def size(self) -> int:
        """Number of prunable weights."""
        return sum(layer.size for layer in self.layers)

    @property
    def kept(self) -> int:
        """Number of kept prunable weights."""
        return sum(layer.kept for layer in self.layers)

    @property
    def density(self) -> float:
        """Kept prunable weights divided by all prunable weights; 1 if there are none."""
        return self.kept / self.size if self.size else 1.0

    @property
    def density_of_all(self) -> float:
        """The same over all matrices, of which some stay dense."""
        dense = sum(self.unpruned.values())
        return (self.kept + dense) / (self.size + dense) if self.size + dense else 1.0

    def __str__(self) -> str:
        head = ("layer", "shape", "kept", "of", "density", "dead outputs", "dead inputs")
        rows = [
            (x.name, "×".join(map(str, x.shape)), f"{x.kept:,}", f"{x.size:,}", f"{x.density:.4f}",
             str(x.dead_outputs), str(x.dead_inputs))
            for x in self.layers
        ]  # fmt: skip
        rows.append(("prunable", "", f"{self.kept:,}", f"{self.size:,}", f"{self.density:.4f}", "", ""))
        dense = sum(self.unpruned.values())
        if dense:
            rows += [(name, "", f"{size:,}", f"{size:,}", "1.0000", "", "") for name, size in self.unpruned.items()]
            total = (f"{self.kept + dense:,}", f"{self.size + dense:,}", f"{self.density_of_all:.4f}")
            rows.append(("all matrices", "", *total, "", ""))
        return _table([head, *rows])


def summary(network: nn.Module) -> Summary:
    """Return what each layer of `network` keeps.

    Args:
        network: any network, dense or with masks, also in a wrapper.

    Returns:
        The summary: data, and a table if it is printed.

    Example:
        >>> print(ersparse.summary(network))
        >>> ersparse.summary(network).density
    """
    network = unwrapped(network)
    masks, rows = masks_of(network), []
    for layer in prunable_layers(network):
        mask = masks.get(layer.name)
        outputs, inputs = zero_degrees(mask.cpu(), layer) if mask is not None else (0, 0)
        kept = layer.size if mask is None else int(mask.sum())
        rows.append(LayerSummary(layer.name, layer.shape, layer.size, kept, outputs, inputs))
    return Summary(rows, unpruned_matrices(network, [row.name for row in rows]))


def _table(rows: list[tuple[str, ...]]) -> str:
    """Return rows in columns: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
