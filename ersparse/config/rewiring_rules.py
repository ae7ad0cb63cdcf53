"""Keys of rewiring that both the method and its callback read. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from ersparse.config.groups import SettingsGroup
from ersparse.config.types import Count, In, Since


class RewiringRules(SettingsGroup):
    """When and how a network is rewired: every `delta_t` steps, weights are dropped and as many grown in their layer.

    Attributes:
        delta_t: optimizer steps from one update to the next.
        drop_fraction: the drop fraction of a layer's active weights, at the start of training.
        final_fraction: the same at the end of rewiring.
        decay: the decay of the fraction in between: "cosine", "linear", or "constant".
        t_end: the part of the training after which nothing is rewired; 0 never rewires.
        grow: the inactive weights with the largest "gradient", or "random" ones.
        regrow: whether a weight that an update drops may be grown by the same update; it then stays as it is.
        scope: the fraction is taken of each "layer", or "global"ly, wherever the smallest weights are. In either case
            a layer grows as many weights as it dropped.
        skip_step: whether an update replaces the optimizer's step, as in RigL's own code.
        grown_value: "zero", or "random" (Kaiming normal).
        grown_state: the optimizer's state of grown weights: "zero", or unchanged ("keep").
        keep_flow: whether every channel keeps an edge.
        final_sparsity: null, or the sparsity that global magnitude pruning reaches during training.
        schedule: the schedule of the density until then: "cubic" or "constant".
        prune_from: the part of the training before which nothing is pruned.
        prune_until: the part of the training after which nothing is pruned.
        prune_scope: "global" prunes the smallest weights of all layers, "layer" those of each to the same density.
    """

    delta_t: Count
    drop_fraction: Annotated[float, In("(0, 1)")]
    final_fraction: Annotated[float, In("[0, 1)")]
    decay: Literal["cosine", "linear", "constant"]
    t_end: Annotated[float, In("[0, 1]")]
    grow: Literal["gradient", "random"]
    regrow: bool
    scope: Literal["layer", "global"]
    skip_step: bool
    grown_value: Literal["zero", "random"]
    grown_state: Literal["zero", "keep"]
    keep_flow: bool
    final_sparsity: Annotated[float, In("(0, 1)")] | None
    schedule: Literal["cubic", "constant"]
    prune_from: Annotated[float, In("[0, 1)"), Since(0.0)] = 0.0
    prune_until: Annotated[float, In("(0, 1]")]
    prune_scope: Annotated[Literal["global", "layer"], Since("global")] = "global"

    @property
    def final_density(self) -> float | None:
        """The density that pruning reaches; None if nothing is pruned."""
        return None if self.final_sparsity is None else 1 - self.final_sparsity
