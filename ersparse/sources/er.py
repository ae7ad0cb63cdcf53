"""Erdős–Rényi sources whose layer densities are known."""

from __future__ import annotations

from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption
from ersparse.errors import UserError
from ersparse.locate import locate
from ersparse.sparse.density import DensityError, expected_density, from_file
from ersparse.sparse.flow_repair import FlowError
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import REPAIRS, ERSource, Source, TicketSource
from ersparse.storage.density_file import DensityFile, check_shapes


def nominal_density(option: SparsityOption, layers: list[Layer]) -> float:
    """Return the global density asked for, from `sparsity.level` or `sparsity.budget`.

    Raises:
        UserError: the budget does not lie between one weight a layer and all weights.
    """
    sparsity, total = option.settings, sum(layer.size for layer in layers)
    if sparsity.budget is not None and not len(layers) <= sparsity.budget <= total:
        raise UserError(
            f"sparsity.budget={sparsity.budget}: must lie in [{len(layers)}, {total}], from one weight a layer to all"
        )
    return 1 - sparsity.level if sparsity.budget is None else sparsity.budget / total


def source_from_density_function(settings: Settings, option: SparsityOption, layers: list[Layer]) -> Source:
    """Return an ER source with the densities that the option's function computes.

    Raises:
        UserError: no densities meet the budget, or the flow repair cannot.
    """
    asked = [nominal_density(option, layers)] if option.takes_density else []
    try:
        densities = option.settings.resolve()(layers, *asked, **option.arguments())
    except DensityError as error:
        raise UserError(f"sparsity={option.settings.name}: {error}") from None
    return er_source(settings, layers, densities, asked[0] if asked else expected_density(layers, densities))


def source_from_user_file(settings: Settings, layers: list[Layer], file: DensityFile) -> Source:
    """Return the source that `sparsity.file` describes, whose expected density is then the nominal one.

    Raises:
        UserError: the file describes another architecture, or a density is missing or out of range.
    """
    check_shapes(file, layers, settings.model.name)
    try:
        densities = from_file(layers, file.by_layer)
    except DensityError as error:
        raise UserError(f"sparsity.file={settings.sparsity.file}: {error}") from None
    return source_from_densities(settings, layers, file, expected_density(layers, densities))


def source_from_densities(settings: Settings, layers: list[Layer], file: DensityFile, nominal: float) -> Source:
    """Return the masks of a density file if `sparsity.keep_mask` is set, else an ER source with its densities."""
    sparsity = settings.sparsity
    if sparsity.keep_mask:
        return TicketSource(layers, file.masks(), settings.seed_of("mask"), sparsity.control, nominal)
    return er_source(settings, layers, [file.by_layer[layer.name] for layer in layers], nominal)


def er_source(settings: Settings, layers: list[Layer], densities: list[float], nominal: float) -> ERSource:
    """Return an ER source that samples and repairs as `sparsity.sampling` and `sparsity.flow` say.

    Raises:
        UserError: the repair cannot be imported, or cannot meet a layer's density.
    """
    sparsity = settings.sparsity
    flow = sparsity.flow if sparsity.flow in REPAIRS else locate(sparsity.flow)
    source = ERSource(layers, densities, nominal, settings.seed_of("mask"), sparsity.sampling, flow)
    try:
        source.drawing_densities()
    except FlowError as error:
        raise UserError(f"sparsity.flow={sparsity.flow}: {error}") from None
    return source
