"""run.json: what a run is, how far it is, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ersparse.runs.plan import Plan
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.mask import digest
from ersparse.sparse.summary import describe_masks
from ersparse.storage.provenance import machine, now, provenance
from ersparse.storage.run_folder import SCHEMA, RunFolder


class RunRecord:
    """The content of run.json. Every `save` writes it whole."""

    def __init__(self, folder: RunFolder, plan: Plan, config: dict[str, Any], before: Mapping[str, Any] | None) -> None:
        """`before` is what an interrupted run left: its W&B id is kept."""
        self.folder, self.plan = folder, plan
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "state": "running",
            "hash": plan.hash,
            "seed": plan.settings.seed,
            **{key: value for key, value in provenance().items() if key in ("command", "host", "slurm")},
            "config": config,
            "progress": {"epoch": 0, "epochs": plan.epochs if plan.method.trains else 0},
            "updated": None,
            "wandb_id": (before or {}).get("wandb_id"),
            "sparsity": {},
            "layers": [],
            "mask_sha256": None,
            "source_mask_sha256": None,
            "network_sha256": None,
            "metrics": {},
            "timing": {},
            **{key: value for key, value in provenance().items() if key in ("versions", "git")},
            "machine": machine(gpu=plan.method.trains and config["trainer"]["accelerator"] == "gpu"),
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
        plan = self.plan
        densities = plan.source.densities if plan.source else [1.0] * len(plan.layers)
        self.content |= describe_masks(plan.layers, densities, plan.nominal, masks, self.counts, plan.steps)
        for layer in self.content["layers"]:
            layer["positions"] = plan.positions[layer["name"]]
