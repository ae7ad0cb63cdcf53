"""The run folder: one for each run, named by what is in it, written by one process at a time."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ersparse.errors import UserError
from ersparse.files import write_bytes, write_json, write_text

SCHEMA = 1
LOCK = ".lock"


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.csv"
        self.log = path / "run.log"
        self.network = path / "network.safetensors"

    def acquire(self) -> AbstractContextManager[object]:
        """The lock on this folder, held to the end of the `with`, or of the process.

        Raises:
            UserError: another process works in the folder, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return FileLock(self.path / LOCK, timeout=0).acquire()
        except Timeout:
            raise UserError(f"{self.path}: in use by another process; wait for it, or stop it") from None
        except OSError as error:
            raise UserError(f"paths.root: {self.path} cannot be written ({error.strerror or error})") from None

    def clear(self) -> None:
        """Removes everything but the lock; run.json first, so that half a folder never passes for a finished run."""
        (self.path / "run.json").unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def read(self) -> dict[str, Any] | None:
        """run.json, or None where there is none that can be read."""
        try:
            record = json.loads((self.path / "run.json").read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict):
            return None
        if record.get("schema", 0) > SCHEMA:
            raise UserError(
                f"{self.path}/run.json: schema {record['schema']}, must be {SCHEMA} or less; update ersparse"
            )
        return dict(record)

    def write(self, record: dict[str, Any]) -> None:
        write_json(self.path / "run.json", record)

    def write_config(self, config: dict[str, Any]) -> None:
        write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))

    def write_network(self, state: dict[str, Tensor]) -> None:
        """Weights and masks, as safetensors."""
        whole = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        write_bytes(self.path / "network.safetensors", save(whole))


def read_network(folder: Path) -> tuple[dict[str, Tensor], bytes]:
    """Weights and masks of a finished run, and the bytes that they were read from.

    Raises:
        UserError: the folder holds no finished network.
    """
    path = folder / "network.safetensors"
    try:
        data = path.read_bytes()
        return load(data), data
    except OSError:
        raise UserError(
            f"model.init_from={folder}: has no network.safetensors; must be the folder of a finished run"
        ) from None
    except SafetensorError as error:
        raise UserError(f"model.init_from={folder}: network.safetensors is damaged ({error})") from None


def read_densities(path: Path) -> dict[str, float]:
    """Layer name -> density, from a JSON file {"densities": {...}} or a run folder (kept fraction of its masks).

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
        if "layers" in content:
            return {layer["name"]: layer["nonzero"] / layer["size"] for layer in content["layers"]}
        return {str(name): float(density) for name, density in content["densities"].items()}
    except OSError as error:
        raise UserError(f"sparsity.file={path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f'sparsity.file={path}: must be JSON with {{"densities": {{layer: density}}}}, or a run folder'
        ) from None


def network_masks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks in a saved network, by the name of the weight that they mask."""
    return {key.removesuffix("_mask"): value for key, value in state.items() if value.dtype == torch.bool}
