"""The run folder: one for each run, named by what is in it, written by one process at a time."""

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

LOCK = ".lock"
BEAT = 5.0  # seconds between two signs of life

log = logging.getLogger("ersparse")


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.csv"
        self.log = path / "run.log"
        self.network = path / "network.safetensors"

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """The lock on this folder, held to the end of the `with`, or of the process.

        Raises:
            UserError: another process works in the folder, here or on another host, or it cannot be written.
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
            self._not_elsewhere()
            with self._heartbeat():
                yield

    def _not_elsewhere(self) -> None:
        """Not every file system shares its locks between hosts: watches the heart of a run that was on another."""
        record = self.read() or {}
        host = record.get("host")
        if record.get("state") != "running" or host in (None, socket.gethostname()):
            return
        log.info(f"it was running on {host}; watching for {3 * BEAT:g} s whether it still is")
        before, until = self._beat(), time.monotonic() + 3 * BEAT
        while time.monotonic() < until:
            time.sleep(BEAT / 10)
            if self._beat() != before:
                raise UserError(f"{self.path}: in use on {host}; wait for it, or stop it")

    def _beat(self) -> int:
        with (self.path / LOCK).open() as file:  # opening makes a network file system look again
            return os.fstat(file.fileno()).st_mtime_ns

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Touches the lock as long as this process works."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT):
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
        """Removes everything but the lock; run.json first, so that half a folder never passes for a finished run."""
        (self.path / "run.json").unlink(missing_ok=True)
        for path in self.path.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def read(self) -> dict[str, Any] | None:
        """run.json, or None where there is none that can be read."""
        record = run_json.read(self.path)
        if record is None or "state" not in record:
            return None
        if record.get("schema", 0) > run_json.SCHEMA:
            raise UserError(
                f"{self.path}/run.json: schema {record['schema']}, must be {run_json.SCHEMA} or less; update ersparse"
            )
        return record

    def write(self, record: dict[str, Any]) -> None:
        write_json(self.path / "run.json", record)

    def write_config(self, config: dict[str, Any]) -> None:
        write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))

    def write_network(self, state: dict[str, Tensor]) -> str:
        """Weights and masks, as safetensors; returns the SHA-256 of the file."""
        whole = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        data = save(whole)
        write_bytes(self.network, data)
        return hashlib.sha256(data).hexdigest()


def read_network(path: Path, where: str) -> tuple[dict[str, Tensor], str]:
    """Weights and masks of the finished run in `path`, and the SHA-256 of the file that holds them.

    Raises:
        UserError: the folder holds no finished network, or a damaged one; the line begins with `where`.
    """
    folder = RunFolder(path)
    record = folder.read() or {}
    try:
        data = folder.network.read_bytes()
        state, found = load(data), hashlib.sha256(data).hexdigest()
    except OSError:
        raise UserError(f"{where}: has no network.safetensors; must be the folder of a finished run") from None
    except SafetensorError as error:
        raise UserError(f"{where}: network.safetensors is damaged ({error}); {_make_anew(record)}") from None
    if record.get("network_sha256") not in (None, found):
        raise UserError(f"{where}: network.safetensors is not what the run wrote; {_make_anew(record)}")
    return state, found


def _make_anew(record: dict[str, Any]) -> str:
    command = record.get("command", "the run's command")
    return f"remove it and issue `{command}`, which makes it anew from the last checkpoint"


def network_masks(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The masks in a saved network, by the name of the weight that they mask."""
    return {key.removesuffix("_mask"): value for key, value in state.items() if value.dtype == torch.bool}
