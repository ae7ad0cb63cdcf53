"""Keys of rewiring that both the method and its callback read. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from ersparse.config.groups import SettingsGroup
from ersparse.config.types import Count, Fraction, In, NonNegative, Since
from ersparse.errors import UserError


def _one_of(*names: str) -> AfterValidator:
    """Return a validator for the name of a built-in rule or the import path of another one."""

    def check(value: str) -> str:
        if value not in names and "." not in value:
            allowed = f"{', '.join(names)}, or the import path of a rule"
            raise PydanticCustomError("rule", "must be one of {allowed}", {"allowed": allowed})
        return value

    return AfterValidator(check)


class RewiringRules(SettingsGroup):
    """When and how a network is rewired: every `delta_t` steps, weights are dropped and as many grown in their layer.

    Attributes:
        delta_t: optimizer steps from one update to the next.
        drop_fraction: the drop fraction of a layer's active weights, at the start of training.
        final_fraction: the same at the end of rewiring.
        decay: the decay of the fraction in between: "cosine", "linear", or "constant".
        t_end: the part of the training after which nothing is rewired; 0 never rewires.
        grow: the inactive weights with the largest "gradient" or "momentum", "random" ones, those that link prediction
            finds ("ch3"), or those of a rule by its import path (`ersparse.sparse.rewiring_rules`).
        drop: the active weights with the smallest "magnitude", or magnitude plus gradient ("mest"), or by a rule.
        mest_lambda: the factor of the gradient in "mest".
        redistribute: layers grow as many weights as they dropped ("none"), or what all dropped in proportion to the
            mean "momentum" or "gradient" of their weights, or to the number of their "remaining" weights.
        fan_in: whether all output channels of a layer have the same number of weights after each update.
        ablate: with `fan_in`, an output channel with fewer salient weights than this part of the fan-in loses all.
        ties: which of the weights with equal grow scores are grown: the "first" of the layer, or the first in a
            permutation that is "spread" over it.
        regrow: whether a weight that an update drops may be grown by the same update; it then stays as it is.
        scope: the fraction is taken of each "layer", or "global"ly, wherever the smallest weights are. In either case
            a layer grows as many weights as it dropped.
        skip_step: whether an update replaces the optimizer's step, as in RigL's own code.
        grown_value: "zero", or "random" (Kaiming normal).
        grown_state: the optimizer's state of grown weights: "zero", or unchanged ("keep").
        keep_flow: whether every channel keeps an edge.
        final_sparsity: null, or the sparsity that global magnitude pruning reaches during training.
        schedule: the schedule of the density until then: "cubic", "constant", or "cyclic", which rises again.
        cycles: how often a cyclic density falls to the final one.
        prune_from: the part of the training before which nothing is pruned.
        prune_until: the part of the training after which nothing is pruned.
        prune_scope: "global" prunes the smallest weights of all layers, "layer" those of each to the same density.
    """

    delta_t: Count
    drop_fraction: Annotated[float, In("(0, 1)")]
    final_fraction: Annotated[float, In("[0, 1)")]
    decay: Literal["cosine", "linear", "constant"]
    t_end: Annotated[float, In("[0, 1]")]
    grow: Annotated[str, _one_of("gradient", "random", "momentum", "ch3")]
    drop: Annotated[str, _one_of("magnitude", "mest"), Since("magnitude")] = "magnitude"
    mest_lambda: Annotated[NonNegative, Since(1.0)] = 1.0
    redistribute: Annotated[Literal["none", "momentum", "gradient", "remaining"], Since("none")] = "none"
    fan_in: Annotated[bool, Since(False)] = False
    ablate: Annotated[Fraction, Since(0.0)] = 0.0
    ties: Annotated[Literal["first", "spread"], Since("first")] = "first"
    regrow: bool
    scope: Literal["layer", "global"]
    skip_step: bool
    grown_value: Literal["zero", "random"]
    grown_state: Literal["zero", "keep"]
    keep_flow: bool
    final_sparsity: Annotated[float, In("(0, 1)")] | None
    schedule: Literal["cubic", "constant", "cyclic"]
    cycles: Annotated[Count, Since(4)] = 4
    prune_from: Annotated[float, In("[0, 1)"), Since(0.0)] = 0.0
    prune_until: Annotated[float, In("(0, 1]")]
    prune_scope: Annotated[Literal["global", "layer"], Since("global")] = "global"

    @property
    def final_density(self) -> float | None:
        """The density that pruning reaches; None if nothing is pruned."""
        return None if self.final_sparsity is None else 1 - self.final_sparsity

    @property
    def changes_counts(self) -> bool:
        """Whether layers change their number of weights."""
        return self.final_sparsity is not None or self.redistribute != "none"

    def check_combination(self, prefix: str = "", pattern: str | None = None, where: str = "pattern") -> None:
        """Check that the rules go together.

        Args:
            prefix: what precedes the names of keys in a message.
            pattern: the pattern of masks that updates keep.
            where: the key of the pattern.

        Raises:
            UserError: they do not.
        """

        def refuse(key: str, need: str) -> None:
            value = getattr(self, key)
            shown = str(value).lower() if isinstance(value, bool) else value
            raise UserError(f"{prefix}{key}={shown}: {need}")

        if self.grow == "momentum" and self.grown_state != "keep":
            refuse("grow", f"needs {prefix}grown_state=keep, with which removed weights have momentum")
        if self.ablate and not self.fan_in:
            refuse("ablate", f"needs {prefix}fan_in=true")
        if self.redistribute != "none" and not self.regrow:
            refuse("redistribute", f"needs {prefix}regrow=true, or layers may be too small for what they grow")
        if self.redistribute != "none" and self.keep_flow:
            refuse("redistribute", f"must be none with {prefix}keep_flow=true, which needs layers of constant size")
        if self.schedule == "cyclic":
            self._check_cycles(prefix, refuse)
        if self.fan_in:
            self._check_rows(prefix, f"{prefix}fan_in=true")
        if pattern is not None and self.final_sparsity is not None:
            refuse("final_sparsity", f"must be null with {where}={pattern}, which pruning would not keep")
        if pattern is not None and ":" in pattern:
            self._check_rows(prefix, f"{where}={pattern}")
            if self.fan_in:
                refuse("fan_in", f"must be false with {where}={pattern}, which fixes it already")

    def _check_cycles(self, prefix: str, refuse: Callable[[str, str], None]) -> None:
        """Refuse what cannot grow whenever the density rises."""
        if self.final_sparsity is None:
            refuse("schedule", f"needs {prefix}final_sparsity")
        if self.prune_scope != "global":
            refuse("prune_scope", f"must be global with {prefix}schedule=cyclic")
        if self.t_end < self.prune_until:
            refuse("t_end", f"must be at least {prefix}prune_until={self.prune_until} with {prefix}schedule=cyclic")

    def _check_rows(self, prefix: str, row: str) -> None:
        """Refuse what does not keep the number of weights of rows, or is not done for them."""
        needs = {"regrow": True, "keep_flow": False, "final_sparsity": None, "redistribute": "none", "ties": "first"}
        for key, need in needs.items():
            if (value := getattr(self, key)) != need:
                shown, wanted = (str(x).lower() if isinstance(x, bool) else x for x in (value, need))
                raise UserError(f"{prefix}{key}={shown}: must be {'null' if wanted is None else wanted} with {row}")
