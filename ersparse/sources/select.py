"""Selection of the source network that the settings describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption
from ersparse.errors import UserError
from ersparse.sources.er import (
    nominal_density,
    own_densities,
    source_from_density_function,
    source_from_user_file,
)
from ersparse.sources.iterative_run import IterativeRunSource
from ersparse.sources.pruner import pruner_source
from ersparse.sparse.layers import Layer
from ersparse.sparse.patterns import checked_pattern
from ersparse.sparse.source import DenseSource, Source, TicketSource
from ersparse.storage.density_file import DensityFile


def select_source(
    settings: Settings,
    option: SparsityOption,
    layers: list[Layer],
    *,
    ticket: dict[str, Tensor],
    weights_hash: str | None,
    file: DensityFile | None,
    prerequisite: Callable[[float], Path],
) -> Source:
    """Return the source of masks.

    Args:
        settings: the settings of the run.
        option: its sparsity option.
        layers: the prunable layers of its network.
        ticket: the masks of `model.init_from`, which take precedence; empty if it has none.
        weights_hash: the hash of the network file of `model.init_from`.
        file: the content of `sparsity.file`, if the option is `file`.
        prerequisite: returns the folder of the run whose densities are used, given the global density; called only if
            the option takes its densities from a run.

    Raises:
        UserError: one line that names the key.
    """
    _check_control(option, has_ticket=bool(ticket), has_weights=bool(settings.model.init_from))
    _check_pattern(option, layers, has_ticket=bool(ticket))
    if ticket:
        return TicketSource(layers, ticket, settings.seed_of("mask"), option.settings.control)
    if option.settings.is_dense:
        level = option.settings.level if option.takes_density and option.settings.budget is None else 0.0
        return DenseSource(layers, 1 - level)  # of a narrow network: that of the sparse one it is compared with
    own = own_densities(option, layers)
    if option.settings.keep_mask and any(density < 1 for density in own.values()):
        raise UserError(
            f"sparsity.layers={option.settings.layers}: must give density 1 with sparsity.keep_mask=true, which draws "
            "no masks"
        )
    if file:
        return source_from_user_file(settings, layers, file, own)
    if option.settings.run:
        if own:
            raise UserError(
                f"sparsity={option.settings.name}: does not take sparsity.layers, first_dense or last_dense, since the "
                "densities are those of another run"
            )
        nominal = nominal_density(option, layers)
        return IterativeRunSource(layers, nominal, settings, prerequisite(nominal))
    if option.is_pruner:
        return pruner_source(settings, option, layers, nominal_density(option, layers), weights_hash, own)
    return source_from_density_function(settings, option, layers)


def _check_pattern(option: SparsityOption, layers: list[Layer], has_ticket: bool) -> None:
    """Refuse a pattern of masks that are not drawn, or whose densities cannot be those of the pattern."""
    settings = option.settings
    if settings.pattern is None:
        return
    if has_ticket or settings.keep_mask:
        raise UserError(
            f"sparsity.pattern={settings.pattern}: must be null with "
            f"{'model.init_from' if has_ticket else 'sparsity.keep_mask=true'}, which draws no masks"
        )
    if option.is_pruner or settings.run:
        if ":" in settings.pattern:
            raise UserError(
                f"sparsity.pattern={settings.pattern}: needs the same density in all layers, as sparsity=uniform has it"
            )
        checked_pattern(settings.pattern, layers, [0.5] * len(layers), "sparsity.")


def _check_control(option: SparsityOption, has_ticket: bool, has_weights: bool) -> None:
    """Refuse a control experiment without the thing that it controls for."""
    settings = option.settings
    pruner = not has_ticket and option.is_pruner
    given = settings.name == "file" or settings.run is not None
    mask = has_ticket or (settings.keep_mask and (pruner or given))
    requirements = {
        "none": (True, ""),
        "shuffle": (mask, "a mask: model.init_from with a ticket, or sparsity.keep_mask=true"),
        "reinit": (
            mask or pruner,
            "weights that a mask was found with: model.init_from with a ticket, or a pruner",
        ),
        "signs": (has_weights, "a network that has them: model.init_from"),
        "magnitudes": (has_weights, "a network that has them: model.init_from"),
        "invert": (pruner, "scores: sparsity=snip, grasp, synflow or imp"),
        "permute": (
            not has_ticket and settings.name == "file" and settings.keep_mask,
            "a mask with its weights, sparsity=file with a run folder and sparsity.keep_mask=true, and none in "
            "model.init_from (or model.init_mask=own)",
        ),
    }
    met, requirement = requirements[settings.control]
    if not met:
        raise UserError(f"sparsity.control={settings.control}: must be none, unless there is {requirement}")
