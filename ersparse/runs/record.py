"""run.json: what a run is, how far it is, and what came out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ersparse.runs.network import positions_of
from ersparse.runs.plan import Plan
from ersparse.sparse.budget import budget_excess
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.mask import digest
from ersparse.sparse.summary import describe_masks, unpruned_line
from ersparse.storage.provenance import gpu_versions, machine, now, provenance
from ersparse.storage.run_folder import RunFolder
from ersparse.storage.run_json import SCHEMA

log = logging.getLogger("ersparse")


class RunRecord:
    """The content of run.json. Every `save` writes the whole file.

    Args:
        folder: the folder of the run.
        run_hash: the hash of its identity.
        seed: the seed of the run.
        config: its resolved configuration.
        epochs: how many units of progress it has: epochs of training, cells of a theory run.
        gpu: whether it computes on a GPU.
        before: the record that an interrupted run left, whose ids of W&B and MLflow are kept.
    """

    def __init__(
        self,
        folder: RunFolder,
        run_hash: str,
        seed: int,
        config: Mapping[str, Any],
        epochs: int,
        gpu: bool = False,
        before: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, origin = folder, provenance()
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "state": "running",
            "hash": run_hash,
            "seed": seed,
            **{key: origin[key] for key in ("command", "host", "slurm")},
            "config": dict(config),
            "progress": {"epoch": 0, "epochs": epochs},
            "updated": None,
            "wandb_id": (before or {}).get("wandb_id"),
            **{key: value for key, value in (before or {}).items() if key == "mlflow_id"},
            "sparsity": None,
            "layers": [],
            "mask_sha256": None,
            "source_mask_sha256": None,
            "network_sha256": None,
            "metrics": {},
            "timing": {},
            "versions": origin["versions"] | (gpu_versions() if gpu else {}),
            "git": origin["git"],
            "machine": machine(gpu),
            "error": None,
        }

    def save(self, **changes: Any) -> None:
        """Apply `changes` to the content and write it."""
        self.content |= changes
        self.content["updated"] = now()
        self.folder.write(self.content)


class NetworkRecord(RunRecord):
    """The record of a run that has a network: sparsities, layers and masks are described as well.

    Args:
        folder: the folder of the run.
        plan: the plan of the run, with its trainer settings resolved.
        before: the record that an interrupted run left.
    """

    def __init__(self, folder: RunFolder, plan: Plan, before: Mapping[str, Any] | None) -> None:
        config, trains = plan.settings.model_dump(by_alias=True), plan.method.trains
        gpu = trains and plan.settings.trainer.accelerator == "gpu"
        epochs = plan.epochs if trains else 0
        super().__init__(folder, plan.hash, plan.settings.seed, config, epochs, gpu, before)
        self.plan, self.content["sparsity"] = plan, {}

    def describe_source(self, masks: Mapping[str, Tensor], counts: Mapping[str, Counts]) -> None:
        """Record the source network as drawn and repaired; warn of a missed budget, and of matrices that stay dense.

        Args:
            masks: masks after repair; empty for a dense network.
            counts: counts of drawing and repair by layer name.
        """
        self.counts = counts
        if excess := budget_excess(self.plan.source, masks):
            log.warning(excess)
        self.content["source_mask_sha256"] = digest(masks) if masks else None
        self.describe_masks(masks)
        if line := unpruned_line(self.content["sparsity"]):
            log.warning(line)

    def describe_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Record the masks as they are now, on whichever device."""
        plan, positions = self.plan, positions_of(self.plan.settings)
        densities = plan.source.densities
        self.content |= describe_masks(
            plan.layers, densities, plan.nominal, masks, self.counts, plan.graph, plan.unpruned
        )
        for layer in self.content["layers"]:
            layer["positions"] = positions.get(layer["name"], 0)  # an embedding is looked up
