"""The identity of a run: a hash over everything that decides its results, and nothing else.

Left out are fields marked `NotIdentity` (where and how a run happens), the seed, which names the folder, sparsity keys
that do not apply to the chosen option, and keys that were added later and have their default. Files enter by content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ersparse.config.groups import identity_fields
from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption


class FileHashes(NamedTuple):
    """Hashes of what was read from the files and runs that the settings name; None where they name none.

    Attributes:
        init_from: SHA-256 of the network file of `model.init_from`.
        is_ticket: whether that network has masks, which then replace `sparsity.*`.
        file: hash of the densities, or of the masks, of `sparsity.file`.
        run: hash of the run whose densities are used.
    """

    init_from: str | None = None
    is_ticket: bool = False
    file: str | None = None
    run: str | None = None


def describe(
    settings: Settings, option: SparsityOption, method_fields: Mapping[str, Any], epochs: int, file_hashes: FileHashes
) -> dict[str, Any]:
    """Return the part of a run's settings that decides its results, as plain values.

    Args:
        settings: the settings of the run.
        option: its sparsity option.
        method_fields: the identity fields of its method.
        epochs: the length of the run.
        file_hashes: hashes of the files that the settings name.
    """
    sparsity = {"name": "ticket", "control": option.settings.control} if file_hashes.is_ticket else option.identity()
    for key in ("file", "run"):
        if key in sparsity:
            sparsity[key] = getattr(file_hashes, key)
    schedule = identity_fields(settings.schedule)
    later = {"loss": identity_fields(settings.loss), "trainer": identity_fields(settings.trainer)}
    del later["trainer"]["max_epochs"]  # part of epochs
    return {
        "model": identity_fields(settings.model) | {"init_from": file_hashes.init_from},
        "dataset": identity_fields(settings.dataset),
        "sparsity": sparsity,
        "method": dict(method_fields),
        "optimizer": identity_fields(settings.optimizer),
        **({"schedule": schedule} if schedule != {"name": "multistep"} else {}),
        **{group: fields for group, fields in later.items() if fields},
        "epochs": epochs,
        "variant": settings.variant,
        "seeds": {key: seed for key, seed in settings.seeds.model_dump().items() if seed is not None},
    }


def run_hash(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of `description` as canonical JSON, in hexadecimal; folders carry its first eight digits."""
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
