"""Settings of a data set that are read from its images. Imports no torch.

The function of a data set may have an attribute `describe`, a function `(settings, unknown) -> values`, which returns
the values of the keys `unknown`. They are null in the configuration and complete in the settings, so that networks,
hashes, sweeps and dry runs see the same as for a data set whose option states them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from ersparse.locate import locate, own_code

KEYS = ("num_classes", "images", "channels", "mean", "std", "digest")
T = TypeVar("T")


def described_by(
    describe: Callable[[Any, Collection[str]], dict[str, Any]], not_identity: Collection[str] = ()
) -> Callable[[T], T]:
    """Return a decorator that attaches `describe` to the function of a data set.

    Args:
        describe: reads settings from the images.
        not_identity: keys of the data set's own that say where its images are, and are left out of the hash.
    """

    def attach(load: T) -> T:
        load.describe = describe  # type: ignore[attr-defined]
        load.not_identity = frozenset(not_identity)  # type: ignore[attr-defined]
        return load

    return attach


def place(dataset: Any) -> str:
    """Return the key and value of a data set's settings that say where its images are, for messages."""
    args = dataset.own_keys().get("args") or {}
    return f"dataset.args.path={args['path']}" if "path" in args else f"dataset.root={dataset.root}"


def read_from_data(values: Any, build: Callable[[Any], T]) -> T:
    """Build the settings of a data set, in which keys that are null are read from its images if it describes them.

    Everything else is checked first, so that images are looked at by valid settings only.

    Args:
        values: of the keys.
        build: checks values, and returns the settings.
    """
    unknown = [key for key in KEYS if values.get(key, "") is None] if isinstance(values, Mapping) else []
    describe = getattr(locate(str(values.get("_target_"))), "describe", None) if unknown else None
    if describe is None:
        return build(values)
    checked = build({**values, **_placeholders(values, unknown)})
    with own_code(f"dataset={values.get('name')}", str(values["_target_"])):
        described = describe(checked, unknown)
    return build({**values, **described})


def _placeholders(values: Mapping[str, Any], unknown: Collection[str]) -> dict[str, Any]:
    """Return valid values for the unknown keys."""
    given = next((values[key] for key in ("mean", "std") if isinstance(values.get(key), list)), [0.0] * 3)
    channels = values["channels"] if isinstance(values.get("channels"), int) else len(given)
    valid = {"num_classes": 2, "channels": channels, "mean": [0.0] * channels, "std": [1.0] * channels}
    return {key: valid.get(key) for key in unknown}
