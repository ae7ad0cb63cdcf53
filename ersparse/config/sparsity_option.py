"""The chosen sparsity option and the `sparsity.` keys that apply to it, read from its function's signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ersparse.config.groups import identity_fields
from ersparse.config.sparsity_settings import SparsitySettings
from ersparse.errors import UserError

DRAWING_KEYS = ("sampling", "flow", "pattern")  # apply to every option whose masks are drawn at random
WEIGHT_CONTROLS = ("signs", "magnitudes")  # change the initial weights of any network
RUN_ARGUMENTS = frozenset({"layers", "density", "network", "count", "examples", "shape", "seed", "invert", "among"})


@dataclass(frozen=True)
class SparsityOption:
    """A sparsity option and the arguments of its function.

    Attributes:
        settings: the values of the `sparsity.` keys.
        run_arguments: parameters that a run supplies: layers and density, or a network and a number of weights.
        keys: parameters that are `sparsity.` keys.
        defaults: the defaults of those keys that neither conf/ nor the user's own option gives.
    """

    settings: SparsitySettings
    run_arguments: tuple[str, ...]
    keys: tuple[str, ...]
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, settings: SparsitySettings) -> SparsityOption:
        """Read the parameters of the function that `settings` names.

        Raises:
            UserError: the function cannot be imported, or needs a key that is not given.
        """
        parameters = inspect.signature(settings.resolve()).parameters
        given = tuple(name for name in parameters if name in RUN_ARGUMENTS)
        keys = tuple(name for name in parameters if name not in RUN_ARGUMENTS)
        missing = {key: parameters[key].default for key in keys if not hasattr(settings, key)}
        for key, default in missing.items():
            if default is inspect.Parameter.empty:
                raise UserError(f"sparsity.{key}: is missing; sparsity={settings.name} needs it")
        return cls(settings, given, keys, missing)

    @property
    def is_pruner(self) -> bool:
        """Whether a pruner derives the densities from the network, its weights or data."""
        return "network" in self.run_arguments

    @property
    def takes_density(self) -> bool:
        """Whether `sparsity.level` or `sparsity.budget` sets the global density, rather than the option itself."""
        return self.settings.run is not None or bool({"density", "count"} & set(self.run_arguments))

    def arguments(self) -> dict[str, Any]:
        """Return the values of the function's own keys."""
        return {key: getattr(self.settings, key, self.defaults.get(key)) for key in self.keys}

    def applicable_keys(self) -> list[str]:
        """Return the keys that influence the masks: the function's own, and those of how masks are drawn."""
        settings = self.settings
        weights = ["control"] if settings.control in WEIGHT_CONTROLS else []
        if settings.is_dense:
            return [*self.keys, *weights]
        if not (self.is_pruner or self.keys == ("file",)):
            return [*self.keys, *DRAWING_KEYS, *weights]
        control = ["control"] if settings.control != "none" else []
        keys = ["run"] if settings.run else list(self.keys)
        return [*keys, *(["keep_mask"] if settings.keep_mask else DRAWING_KEYS), *control]

    def identity(self) -> dict[str, Any]:
        """Return the keys and values that enter the hash of a run."""
        fields = identity_fields(self.settings) | dict(self.defaults)
        found = {key: fields[key] for key in ["name", *self.applicable_keys()] if key in fields}
        if self.takes_density:
            asked = "level" if self.settings.budget is None else "budget"
            found[asked] = getattr(self.settings, asked)
        return found | {key: fields[key] for key in self._selection_keys() if fields.get(key)}

    def _selection_keys(self) -> list[str]:
        """Return the keys that select layers; each enters the hash of a run only if it is set."""
        own = [] if self.settings.is_dense else ["first_dense", "last_dense", "layers"]
        return ["include", "exclude", *(key for key in own if key not in self.keys)]
