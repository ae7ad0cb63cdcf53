"""How Lightning writes checkpoints: through `CheckpointFiles`. A file apart, for Lightning is slow to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fabric.plugins import TorchCheckpointIO

from ersparse.storage.checkpoints import CheckpointFiles


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Reading is Lightning's own, `weights_only`."""

    def __init__(self, files: CheckpointFiles) -> None:
        super().__init__()
        self.files = files

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.files.write(checkpoint, Path(path))
