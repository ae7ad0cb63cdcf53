"""Densities as files: JSON with layer -> density and where they come from; the masks that have them lie beside it.

    {"densities": {"conv1.weight": 0.8, ...}, "shapes": {"conv1.weight": [16, 1, 3, 3], ...}, "made": {...}, ...}

A file written by hand needs "densities" alone. A run folder serves as well: the kept fractions of its masks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
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
from ersparse.storage.atomic import write_bytes, write_json
from ersparse.storage.provenance import now, provenance
from ersparse.storage.run_folder import network_masks, read_network


@dataclass(frozen=True)
class DensityFile:
    """What a file of densities, or a run folder, says.

    Attributes:
        by_layer: the fraction that each layer keeps.
        shapes: of the layers; empty where it does not say.
        content: the whole file.
    """

    path: Path
    by_layer: dict[str, float]
    shapes: dict[str, list[int]]
    content: dict[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 of the densities."""
        return hashlib.sha256(json.dumps(self.by_layer, sort_keys=True).encode()).hexdigest()

    def masks(self) -> Masks:
        """The masks that have these densities.

        Raises:
            UserError: there are none, or they are damaged.
        """
        where = f"sparsity.file={self.path}"
        masks = network_masks(read_network(self.path, where)[0]) if self.path.is_dir() else self._beside(where)
        if not masks:
            raise UserError(f"{where}: has no masks, which sparsity.keep_mask=true needs")
        return masks

    def _beside(self, where: str) -> Masks:
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
    """
    Raises:
        UserError: there is no such file, it holds something else, or the run is not finished.
    """
    where, file = f"sparsity.file={path}", path / "run.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
        if "layers" in content:
            if content["state"] != "done":
                raise UserError(f"{where}: is {content['state']}, must be the folder of a finished run")
            rows = content["layers"]
            by_layer = {row["name"]: row["nonzero"] / row["size"] for row in rows}
            return DensityFile(path, by_layer, {row["name"]: row["shape"] for row in rows}, content)
        by_layer = {str(name): float(density) for name, density in content["densities"].items()}
        return DensityFile(path, by_layer, dict(content.get("shapes", {})), content)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f'{where}: must be JSON with {{"densities": {{layer: density}}}}, or a run folder') from None


def check_shapes(found: DensityFile, layers: list[Layer], model: str) -> None:
    """
    Raises:
        UserError: the densities are of another architecture; names the first layer that differs.
    """
    for layer, (name, shape) in zip(layers, found.shapes.items(), strict=False):
        if (name, list(shape)) != (layer.name, list(layer.shape)):
            raise UserError(
                f"sparsity.file={found.path}: is of another architecture, its {name} is {list(shape)} where "
                f"model={model} has {layer.name} {list(layer.shape)}"
            )


def write(path: Path, masks: Mapping[str, Tensor], made: Mapping[str, Any], **more: Any) -> None:
    """The masks, and then the densities that they have: where the JSON is, both are whole.

    Args:
        made: what decided them; its hash is recorded.
        more: further entries.
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
    """Where the masks lie whose densities are in `path`."""
    return path.with_suffix(".safetensors")


def _packed(mask: Tensor) -> Tensor:
    """Eight weights a byte."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def _unpacked(bits: Tensor, shape: list[int]) -> Tensor:
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(shape)
