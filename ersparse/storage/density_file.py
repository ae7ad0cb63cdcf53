"""Density files: JSON with the density of each layer and its provenance, and beside it the masks.

    {"densities": {"conv1.weight": 0.8, ...}, "shapes": {"conv1.weight": [16, 1, 3, 3], ...}, "made": {...}, ...}

A file written by hand needs "densities" only. A run folder can be used as a density file: its densities are those of
the run's masks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ersparse.errors import UserError
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks, density_of, digest
from ersparse.storage import run_json
from ersparse.storage.atomic import write_bytes, write_json
from ersparse.storage.provenance import now, provenance
from ersparse.storage.run_folder import network_masks, read_network


@dataclass(frozen=True)
class DensityFile:
    """The contents of a density file, or of a run folder.

    Attributes:
        path: path of the file or folder.
        by_layer: density by layer name.
        shapes: shape by layer name; empty if unknown.
        content: the JSON object.
    """

    path: Path
    by_layer: dict[str, float]
    shapes: dict[str, list[int]]
    content: dict[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 of the densities, by which they enter the identity of a run."""
        return hashlib.sha256(json.dumps(self.by_layer, sort_keys=True).encode()).hexdigest()

    def without(self, names: Collection[str]) -> DensityFile:
        """Return the densities of the layers that are not among `names`."""
        return replace(self, by_layer={key: density for key, density in self.by_layer.items() if key not in names})

    def masks(self) -> Masks:
        """Return the masks that have these densities.

        Raises:
            UserError: the masks are missing or damaged.
        """
        where = f"sparsity.file={self.path}"
        masks = network_masks(read_network(self.path, where)[0]) if self.path.is_dir() else self._read_masks(where)
        if not masks:
            raise UserError(f"{where}: has no masks, which sparsity.keep_mask=true needs")
        return masks

    def _read_masks(self, where: str) -> Masks:
        file = masks_file(self.path)
        try:
            packed = load(file.read_bytes())
            masks = {name: _unpacked(packed[name], shape) for name, shape in self.shapes.items()}
        except OSError:
            raise UserError(f"{where}: has no masks in {file.name}, which sparsity.keep_mask=true needs") from None
        except (SafetensorError, KeyError, RuntimeError):
            raise UserError(f"{where}: {file.name} is damaged") from None
        if self.content.get("mask_sha256") != digest(masks):
            raise UserError(f"{where}: {file.name} does not hold the masks that were written with it")
        return masks


def read(path: Path) -> DensityFile:
    """Read a density file, or the densities of a finished run.

    Args:
        path: a JSON file, or a run folder.

    Raises:
        UserError: the file is missing or has other contents, or the run is not finished.
    """
    where = f"sparsity.file={path}"
    try:
        content = run_json.load(path) if path.is_dir() else run_json.load_object(path)
        if "layers" in content:
            return _from_record(path, content, where)
        by_layer = {str(name): float(density) for name, density in content["densities"].items()}
        return DensityFile(path, by_layer, dict(content.get("shapes", {})), content)
    except UserError:  # a ValueError as well
        raise
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f'{where}: must be JSON with {{"densities": {{layer: density}}}}, or a run folder') from None


def _from_record(path: Path, record: dict[str, Any], where: str) -> DensityFile:
    """Return the densities of the masks of a finished run."""
    if record["state"] != "done":
        raise UserError(f"{where}: is {record['state']}, must be the folder of a finished run")
    rows = record["layers"]
    by_layer = {row["name"]: row["nonzero"] / row["size"] for row in rows}
    return DensityFile(path, by_layer, {row["name"]: row["shape"] for row in rows}, record)


def check_shapes(found: DensityFile, layers: list[Layer], model: str) -> None:
    """Check that the file is of the network's architecture, as far as it contains shapes.

    Args:
        found: the density file.
        layers: prunable layers of the network.
        model: name of the model, for the message.

    Raises:
        UserError: a layer has another name or shape; the message names the first.
    """
    shapes = [(name, shape) for name, shape in found.shapes.items() if name in found.by_layer]
    for layer, (name, shape) in zip(layers, shapes, strict=False):
        if (name, list(shape)) != (layer.name, list(layer.shape)):
            raise UserError(
                f"sparsity.file={found.path}: is of another architecture, its {name} is {list(shape)} where "
                f"model={model} has {layer.name} {list(layer.shape)}"
            )


def write(path: Path, masks: Mapping[str, Tensor], made: Mapping[str, Any], **more: Any) -> None:
    """Write the masks, and then the JSON with their densities; if the JSON exists, both files are complete.

    Args:
        path: path of the JSON; its folder is created if needed.
        masks: masks by layer name.
        made: everything that determined the masks; its hash is recorded.
        **more: further entries of the JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    canonical = json.dumps(made, sort_keys=True, separators=(",", ":"))
    write_bytes(masks_file(path), save({name: _packed(mask) for name, mask in masks.items()}))
    content = {
        "densities": {name: density_of({name: mask}) for name, mask in masks.items()},
        "shapes": {name: list(mask.shape) for name, mask in masks.items()},
        "sparsity": 1 - density_of(masks),
        "mask_sha256": digest(masks),
        "made": dict(made),
        "hash": hashlib.sha256(canonical.encode()).hexdigest(),
        "created": now(),
        **more,
        **provenance(),
    }
    write_json(path, content)


def masks_file(path: Path) -> Path:
    """Return the path of the masks that belong to the density file `path`."""
    return path.with_suffix(".safetensors")


def _packed(mask: Tensor) -> Tensor:
    """Return the bits of a mask, eight to a byte."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpacked(bits: Tensor, shape: list[int]) -> Tensor:
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(shape)
