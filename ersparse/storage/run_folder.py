"""The run folder: files of one run, written by one process at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.storage.atomic import write_bytes, write_json, write_text

LOCK = run_json.LOCK
HEARTBEAT_INTERVAL = 5.0  # seconds between two updates of the lock's modification time

log = logging.getLogger("ersparse")


class RunFolder:
    """The files of one run.

    Args:
        path: path of the folder; `acquire` creates it.

    Attributes:
        metrics: path of metrics.csv.
        log: path of run.log.
        network: path of network.safetensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.csv"
        self.log = path / "run.log"
        self.network = path / "network.safetensors"

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold the lock of this folder until the block or the process ends.

        Raises:
            UserError: another process on this or another host uses the folder, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK, timeout=0)
            held = lock.acquire()
        except Timeout:
            raise UserError(f"{self.path}: in use by another process; wait for it, or stop it") from None
        except OSError as error:
            raise UserError(f"paths.root: {self.path} cannot be written ({error.strerror or error})") from None
        with held:
            self._check_other_host()
            with self._heartbeat():
                yield

    def _check_other_host(self) -> None:
        """Wait for a heartbeat of the host on which the run was last running, since file locks may not span hosts.

        Raises:
            UserError: the heartbeat of the other host continues.
        """
        record = self.read() or {}
        host = record.get("host")
        if record.get("state") != "running" or host in (None, socket.gethostname()):
            return
        log.info(f"the run was last active on {host}; waiting {3 * HEARTBEAT_INTERVAL:g} s for its heartbeat")
        before, until = self._last_heartbeat(), time.monotonic() + 3 * HEARTBEAT_INTERVAL
        while time.monotonic() < until:
            time.sleep(HEARTBEAT_INTERVAL / 10)
            if self._last_heartbeat() != before:
                raise UserError(f"{self.path}: in use on {host}; wait for it, or stop it")

    def _last_heartbeat(self) -> int:
        """Return the modification time of the lock, in nanoseconds."""
        with (self.path / LOCK).open() as file:  # network file systems refresh attributes when a file is opened
            return os.fstat(file.fileno()).st_mtime_ns

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Touch the lock periodically while the block runs."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(HEARTBEAT_INTERVAL):
                with suppress(OSError):
                    os.utime(self.path / LOCK)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

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
        """Write run.json."""
        write_json(self.path / run_json.NAME, record)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the resolved configuration to config.yaml."""
        write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))

    def write_network(self, state: dict[str, Tensor]) -> str:
        """Write weights and masks to network.safetensors, and return the SHA-256 of the file."""
        whole = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        data = save(whole)
        write_bytes(self.network, data)
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


def network_masks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks of a saved network, by the name of the weight that they mask."""
    return {key.removesuffix("_mask"): value for key, value in state.items() if value.dtype == torch.bool}
