"""Keys of the edge-popup search that both the method and the LightningModule read. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from ersparse.config.groups import SettingsGroup
from ersparse.config.types import Count, In


class EdgePopupSearch(SettingsGroup):
    """How edge-popup searches for a ticket.

    Attributes:
        levels: number of steps in which the sparsity rises from the source's to the final one.
        lr_restart: whether each level has the whole learning-rate schedule.
        score_init: "kaiming_uniform" or "constant".
        affine: whether scale and shift of normalisations (BatchNorm, LayerNorm, and others) are trained as well.
        signed: whether weights are ranked by the score itself rather than by its magnitude.
        scope: "layer" keeps the same fraction of each layer, "global" the weights with the best scores of all.
        min_keep: number of weights that each layer keeps at least.
    """

    levels: Count
    lr_restart: bool
    score_init: Literal["kaiming_uniform", "constant"]
    affine: bool
    signed: bool
    scope: Literal["layer", "global"]
    min_keep: Annotated[int, In("[0, inf)")]
