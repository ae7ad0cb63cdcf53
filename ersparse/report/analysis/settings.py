"""Settings of configurations as dotted keys, and the keys in which configurations differ. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FlatConfig = Mapping[str, Any]  # dotted key -> value, as on the command line: "sparsity.level"
# Keys that say where a run happened, or repeat what another key says.
NOT_A_DIFFERENCE = {
    "seed", "experiment", "sparsity.level", "sparsity.budget", "method.final_sparsity", "dataset.root",
    "dataset.download", "dataset.images", "dataset.epochs", "model.sync_batchnorm", "scale.epochs",
}  # fmt: skip
HARDWARE = {  # keys of `trainer`
    "accelerator", "devices", "num_nodes", "precision", "execution", "detect_anomaly", "metrics", "deterministic",
    "profile", "keep_best",
}  # fmt: skip


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary as dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def varying_keys(configs: Sequence[FlatConfig]) -> list[str]:
    """Return the dotted keys, apart from the sparsities, whose values differ between the configurations.

    Keys that follow from another one are left out: where `dataset.name` differs, so do the mean and deviation of the
    pixels, and `variant` likewise decides other keys.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if _differs(key, configs) and not _follows(key, configs)]


def _differs(key: str, configs: Sequence[FlatConfig]) -> bool:
    part, _, last = key.partition(".")
    if key in NOT_A_DIFFERENCE or last == "_target_" or (part == "trainer" and last in HARDWARE):
        return False
    # a key that a run does not have was added later, and has its default, or belongs to another option
    return len({str(config[key]) for config in configs if key in config}) > 1


def _follows(key: str, configs: Sequence[FlatConfig]) -> bool:
    """Return whether the option of the key's group, or `variant`, determines its value."""
    part, _, last = key.partition(".")
    if last in ("name", "") or part == key:
        return False
    return any(_decides(choice, key, configs) for choice in (f"{part}.name", "variant"))


def _decides(choice: str, key: str, configs: Sequence[FlatConfig]) -> bool:
    """Return whether `choice` varies and each of its values goes with one value of `key`."""
    by_option: dict[str, set[str]] = {}
    for config in configs:
        by_option.setdefault(str(config.get(choice)), set()).add(str(config.get(key)))
    return len(by_option) > 1 and all(len(values) == 1 for values in by_option.values())
