"""The keys of group `model`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ersparse.config.groups import FunctionSettings
from ersparse.config.options import check_name
from ersparse.config.types import In, NotIdentity, Path, Positive, Since
from ersparse.errors import UserError


class ModelSettings(FunctionSettings):
    group: ClassVar[str] = "model"

    width: Annotated[float, In("(0, 64]")]
    init: Literal["default", "layer", "neuron"]
    init_from: Path | None
    init_mismatch: Annotated[Literal["error", "fresh"], Since("error")] = "error"
    narrowed_from: Annotated[Positive | None, NotIdentity] = None
    init_mask: Annotated[Literal["run", "own"], Since("run")] = "run"
    sync_batchnorm: Annotated[bool, NotIdentity]
    args: Annotated[dict[str, Any], Since({})] = Field(default_factory=dict)

    @model_validator(mode="after")
    def own_name_and_arguments(self) -> Self:
        """Check that a network of the user's has a name of its own, and that no argument is given twice.

        Raises:
            UserError: runs of the network would be found under the name of another one, or an argument is given twice.
        """
        check_name(self.group, self.name, self.target)
        for key in sorted(self.args.keys() & self.own_keys()):
            raise UserError(
                f"model.args.{key}={self.args[key]}: is given by model.{key}={self.own_keys()[key]} as well"
            )
        return self

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the network that are no fields: the option's own keys, and `args`."""
        return self.own_keys() | self.args
