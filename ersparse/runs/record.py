"""run.json: what a run is, how far it is, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ersparse.runs.folder import SCHEMA, RunFolder
from ersparse.runs.plan import Plan
from ersparse.runs.provenance import now, provenance
from ersparse.sparse.flow import Counts
from ersparse.sparse.graph import effective_density
from ersparse.sparse.mask import density_of, digest


class Record:
    """The content of run.json. Every `save` writes it whole."""

    def __init__(self, folder: RunFolder, plan: Plan, config: dict[str, Any], before: Mapping[str, Any] | None) -> None:
        """`before` is what an interrupted run left: its W&B id is kept."""
        self.folder, self.plan = folder, plan
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "state": "running",
            "hash": plan.hash,
            "seed": plan.settings.seed,
            **{key: value for key, value in provenance().items() if key in ("command", "host")},
            "config": config,
            "progress": {"epoch": 0, "epochs": plan.settings.epochs() if plan.method.trains else 0},
            "updated": None,
            "wandb_id": (before or {}).get("wandb_id"),
            "sparsity": {},
            "layers": [],
            "mask_sha256": None,
            "source_mask_sha256": None,
            "metrics": {},
            "timing": {},
            **{key: value for key, value in provenance().items() if key in ("versions", "git")},
            "error": None,
        }

    def save(self, **changes: Any) -> None:
        self.content |= changes
        self.content["updated"] = now()
        self.folder.write(self.content)

    def describe_source(self, masks: Mapping[str, Tensor], counts: Mapping[str, Counts]) -> None:
        """What was drawn and repaired. Empty `masks` are a dense network."""
        self.counts = counts
        self.content["source_mask_sha256"] = digest(masks) if masks else None
        self.describe_masks(masks)

    def describe_masks(self, masks: Mapping[str, Tensor]) -> None:
        """What the masks are now, wherever they lie."""
        plan, masks = self.plan, {name: mask.cpu() for name, mask in masks.items()}
        effective = effective_density(masks, plan.layers, plan.steps) if masks and plan.steps else None
        self.content["sparsity"] = {
            "nominal": _sparsity(plan.nominal),
            "expected": _sparsity(plan.expected),
            "realised": _sparsity(density_of(masks)),
            "effective": _sparsity(effective) if masks else 0.0,
        }
        densities = plan.source.densities if plan.source else [1.0] * len(plan.layers)
        self.content["layers"] = [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "size": layer.size,
                "density": density,
                **_counts(self.counts.get(layer.name, Counts(layer.size))),
                "nonzero": int(masks[layer.name].sum()) if masks else layer.size,
            }
            for layer, density in zip(plan.layers, densities, strict=True)
        ]
        self.content["mask_sha256"] = digest(masks) if masks else None


def _sparsity(density: float | None) -> float | None:
    """1 - density, without the last bits that the subtraction invents."""
    return None if density is None else round(1 - density, 12)


def _counts(counts: Counts) -> dict[str, Any]:
    return {
        "drawn": counts.drawn,
        "zero_degree": {"in": counts.zero_in, "out": counts.zero_out},
        "edges_added": {"in": counts.added_in, "out": counts.added_out},
        "edges_moved": {"in": counts.moved_in, "out": counts.moved_out},
    }
