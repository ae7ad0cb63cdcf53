"""Description of a sparse network in plain values: the part of run.json that follows from the masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ersparse.sparse.density import expected_density
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import density_of, digest
from ersparse.sparse.reachability import ChannelOp, effective_density

NAMED = 3  # matrices that stay dense that a message names, the largest first


def describe_masks(
    layers: list[Layer],
    densities: Sequence[float],
    nominal: float,
    masks: Mapping[str, Tensor],
    counts: Mapping[str, Counts],
    graph: list[ChannelOp] | None,
    unpruned: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the global sparsities, one row for each layer, and the hash of the masks.

    Args:
        layers: prunable layers, in network order.
        densities: nominal density of each layer, before drawing and repair.
        nominal: nominal global density.
        masks: current masks by layer name, on any device; empty for a dense network.
        counts: counts of drawing and flow repair by layer name; a layer that is missing was kept dense.
        graph: the channel graph; if None, the effective sparsity is None.
        unpruned: sizes of the matrices that stay dense, by parameter name (`ersparse.sparse.layers.unpruned_matrices`).

    Returns:
        The entries "sparsity", "layers" and "mask_sha256" of run.json. "sparsity" has "realised_of_all", the sparsity
        of all matrices, and "unpruned" only if some matrices of a sparse network stay dense.
    """
    masks = {name: mask.cpu() for name, mask in masks.items()}
    effective = effective_density(masks, layers, graph) if masks and graph else None
    return {
        "sparsity": {
            "nominal": _sparsity(nominal),
            "expected": _sparsity(expected_density(layers, densities)),
            "realised": _sparsity(density_of(masks)),
            "effective": _sparsity(effective) if masks else 0.0,
            **_unpruned(masks, unpruned or {}),
        },
        "layers": [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "size": layer.size,
                "density": density,
                **_counts(counts.get(layer.name, Counts(layer.size))),
                "nonzero": int(masks[layer.name].sum()) if masks else layer.size,
            }
            for layer, density in zip(layers, densities, strict=True)
        ],
        "mask_sha256": digest(masks) if masks else None,
    }


def unpruned_line(sparsity: Mapping[str, Any]) -> str | None:
    """Return one line about the matrices that stay dense; None if there are none.

    Args:
        sparsity: the entry "sparsity" of `describe_masks`.
    """
    if not (sizes := sparsity.get("unpruned")):
        return None
    some = ", ".join(sorted(sizes, key=sizes.__getitem__, reverse=True)[:NAMED])
    more = f" and {len(sizes) - NAMED} more" if len(sizes) > NAMED else ""
    return (
        f"not pruned: {some}{more}, {sum(sizes.values()):,} weights; the sparsity is {sparsity['realised']:.4f} of the "
        f"prunable weights, {sparsity['realised_of_all']:.4f} of all matrices"
    )


def _unpruned(masks: Mapping[str, Tensor], unpruned: Mapping[str, int]) -> dict[str, Any]:
    if not (masks and unpruned):
        return {}
    kept = sum(int(mask.sum()) for mask in masks.values()) + sum(unpruned.values())
    total = sum(mask.numel() for mask in masks.values()) + sum(unpruned.values())
    return {"realised_of_all": _sparsity(kept / total), "unpruned": dict(unpruned)}


def _sparsity(density: float | None) -> float | None:
    """Return 1 - density, rounded to drop the floating-point error of the subtraction."""
    return None if density is None else round(1 - density, 12)


def _counts(counts: Counts) -> dict[str, Any]:
    return {
        "drawn": counts.drawn,
        "zero_degree": {"in": counts.zero_in, "out": counts.zero_out},
        "edges_added": {"in": counts.added_in, "out": counts.added_out},
        "edges_moved": {"in": counts.moved_in, "out": counts.moved_out},
    }
