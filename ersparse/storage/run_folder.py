"""The run folder: files of one run, written by one process at a time."""

from __future__ import annotations

import _thread
import hashlib
import logging
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ersparse.errors import RunFailed, UserError
from ersparse.storage import run_json
from ersparse.storage.atomic import write_bytes, write_json, write_text
from ersparse.storage.locks import HeartbeatLock, LockHeld

LOCK = run_json.LOCK

log = logging.getLogger("ersparse")


class RunFolder:
    """The files of one run.

    Args:
        path: path of the folder; `acquire` creates it.

    Attributes:
        metrics: path of metrics.csv.
        log: path of run.log.
        network: path of network.safetensors.
        best_network: path of network-best.safetensors, of the best validation epoch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.csv"
        self.log = path / "run.log"
        self.network = path / "network.safetensors"
        self.best_network = path / "network-best.safetensors"
        self._lock: HeartbeatLock | None = None
        self._in_main_thread = False

    def averaged_network(self, name: str) -> Path:
        """Return the path of an average of the weights, which is called "ema" or "swa"."""
        return self.path / f"network-{name}.safetensors"

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold the lock of this folder until the block or the process ends.

        Raises:
            UserError: another process on this or another host uses the folder, or the folder cannot be written.
        """
        lock = HeartbeatLock(self.path / LOCK, "the run", self._interrupt)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(self._other_host())
        except LockHeld as held:
            where = f"on {held.host}" if held.host else "by another process"
            raise UserError(f"{self.path}: in use {where}; wait for it, or stop it") from None
        except OSError as error:
            raise UserError(f"paths.root: {self.path} cannot be written ({error.strerror or error})") from None
        self._lock, self._in_main_thread = lock, threading.current_thread() is threading.main_thread()
        try:
            yield
        finally:
            self._lock = None
            lock.release()

    def _other_host(self) -> str | None:
        """Return the host on which the run was last running, if it is another one: older versions left no claim."""
        record = run_json.read(self.path) or {}
        host = record.get("host")
        return host if record.get("state") == "running" and host != socket.gethostname() else None

    def _interrupt(self) -> None:
        """End the work in this folder, which another process has taken over, as Ctrl-C does."""
        log.error(self._taken_over())
        if self._in_main_thread:
            _thread.interrupt_main()

    def _taken_over(self) -> str:
        return f"{self.path}: taken over by another process, after this one gave no sign of life for a while"

    def clear(self) -> None:
        """Remove everything but the lock; run.json goes first, so that a partial folder never counts as finished."""
        (self.path / run_json.NAME).unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def read(self) -> dict[str, Any] | None:
        """Return the record of the run; None if run.json is missing, damaged, or has no state.

        Raises:
            UserError: run.json has a newer schema.
        """
        record = run_json.read(self.path)
        if record is None or "state" not in record:
            return None
        if record.get("schema", 0) > run_json.SCHEMA:
            raise UserError(
                f"{self.path}/run.json: schema {record['schema']}, must be {run_json.SCHEMA} or less; update ersparse"
            )
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Write run.json.

        Raises:
            RunFailed: another process has taken the folder over.
        """
        if self._lock and not self._lock.is_owned():
            raise RunFailed(self._taken_over())
        write_json(self.path / run_json.NAME, record)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration to config.yaml."""
        write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))

    def write_network(self, state: dict[str, Tensor], path: Path | None = None) -> str:
        """Write weights and masks to network.safetensors or `path`, and return the SHA-256 of the file."""
        data = save(_separate(state))
        write_bytes(path or self.network, data)
        return hashlib.sha256(data).hexdigest()


def read_network(path: Path, where: str) -> tuple[dict[str, Tensor], str]:
    """Return weights and masks of a finished run, and the SHA-256 of their file.

    Args:
        path: the run folder.
        where: the key and value that name the folder, with which error messages begin.

    Raises:
        UserError: network.safetensors is missing, damaged, or not the one that the run wrote.
    """
    folder = RunFolder(path)
    record = folder.read() or {}
    try:
        data = folder.network.read_bytes()
        state, found = load(data), hashlib.sha256(data).hexdigest()
    except OSError:
        raise UserError(f"{where}: has no network.safetensors; must be the folder of a finished run") from None
    except SafetensorError as error:
        raise UserError(f"{where}: network.safetensors is damaged ({error}); {_recreate_hint(record)}") from None
    if record.get("network_sha256") not in (None, found):
        raise UserError(f"{where}: network.safetensors is not what the run wrote; {_recreate_hint(record)}")
    return state, found


def _recreate_hint(record: dict[str, Any]) -> str:
    command = record.get("command", "the run's command")
    return f"remove it and issue `{command}`, which recreates it from the last checkpoint"


def network_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of a saved network, by the name of the weight that they mask.

    A network may have boolean buffers of its own: a mask is one that has name and shape of a weight.
    """
    found = {}
    for key, value in state.items():
        weight = state.get(name := key.removesuffix("_mask"))
        if value.dtype == torch.bool and name != key and weight is not None and weight.shape == value.shape:
            found[name] = value
    return found


def network_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters and buffers of a saved network, without the masks."""
    masks = network_masks(state)
    return {key: value for key, value in state.items() if key.removesuffix("_mask") not in masks or key in masks}


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU that share no memory, as the format requires; tied weights do."""
    found, seen = {}, set()
    for key, value in state.items():
        whole = value.detach().cpu().contiguous()
        place = whole.untyped_storage().data_ptr()
        found[key] = whole.clone() if place in seen else whole
        seen.add(place)
    return found
