"""From settings to the source of masks: a ticket, densities that a rule or a file gives, or that a pruner will."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ersparse.config.schema import Settings, SparsitySettings
from ersparse.data.arrays import Arrays
from ersparse.errors import UserError
from ersparse.runs.identity import arguments_of, is_earned, takes_density
from ersparse.sources.iterative_run import IterativeRunSource, iterative_run_source
from ersparse.sources.pruner import PrunerSource, er_source, pruner_source, source_from
from ersparse.sparse.density import DensityError, expected_density, from_file
from ersparse.sparse.layers import Layer
from ersparse.sparse.source import Source, TicketSource
from ersparse.storage.density_file import DensityFile, check_shapes
from ersparse.storage.run_folder import network_masks

if TYPE_CHECKING:
    from ersparse.runs.plan import Plan


def source_of(
    settings: Settings,
    layers: list[Layer],
    init_from: dict[str, Tensor] | None,
    weights: str | None,
    file: DensityFile | None,
) -> Source | None:
    """Where the masks come from; None is a dense network.

    Args:
        init_from: the network of `model.init_from`, and `weights` its hash.
        file: what `sparsity.file` says, where the option is `file`.

    Raises:
        UserError: one line, naming the key.
    """
    sparsity = settings.sparsity
    masks = network_masks(init_from) if init_from else {}
    _check_control(sparsity, bool(masks))
    if masks:
        return TicketSource(layers, masks, settings.seed_of("mask"), sparsity.control)
    if sparsity.name == "dense":
        return None
    if file:
        return _from_file(settings, layers, file)
    if sparsity.run:
        return iterative_run_source(settings, layers, _nominal(sparsity, layers))
    if is_earned(sparsity):
        return pruner_source(settings, layers, _nominal(sparsity, layers), weights)
    return _by_rule(settings, layers)


def provide(plan: Plan, images: Callable[[], Arrays]) -> Plan:
    """The plan with all that it can be drawn from: densities that are not there yet are made.

    Args:
        images: of the data set, loaded where a score looks at them.

    Raises:
        UserError: they cannot be made.
    """
    source = plan.source
    if isinstance(source, PrunerSource):
        return replace(plan, source=source.make(plan, images))
    return replace(plan, source=source.make()) if isinstance(source, IterativeRunSource) else plan


def as_known(plan: Plan) -> Plan:
    """The plan with the densities that are there already; makes none."""
    known = plan.source.known() if isinstance(plan.source, PrunerSource | IterativeRunSource) else None
    return replace(plan, source=known) if known else plan


def _check_control(sparsity: SparsitySettings, ticket: bool) -> None:
    """A control needs what it controls."""
    pruner = not ticket and is_earned(sparsity)
    given = sparsity.name == "file" or sparsity.run is not None
    mask = ticket or (sparsity.keep_mask and (pruner or given))
    needs = {
        "none": (True, ""),
        "shuffle": (mask, "a mask: model.init_from with a ticket, or sparsity.keep_mask=true"),
        "reinit": (mask or pruner, "weights that a mask was found with: model.init_from with a ticket, or a pruner"),
        "invert": (pruner, "scores: sparsity=snip, grasp, synflow or imp"),
    }
    there, what = needs[sparsity.control]
    if not there:
        raise UserError(f"sparsity.control={sparsity.control}: must be none, unless there is {what}")


def _nominal(sparsity: SparsitySettings, layers: list[Layer]) -> float:
    """The global density asked for."""
    total = sum(layer.size for layer in layers)
    if sparsity.budget is not None and not len(layers) <= sparsity.budget <= total:
        raise UserError(
            f"sparsity.budget={sparsity.budget}: must lie in [{len(layers)}, {total}], from one weight a layer to all"
        )
    return 1 - sparsity.level if sparsity.budget is None else sparsity.budget / total


def _by_rule(settings: Settings, layers: list[Layer]) -> Source:
    sparsity = settings.sparsity
    arguments = {key: getattr(sparsity, key) for key in arguments_of(sparsity).keys}
    asked = [_nominal(sparsity, layers)] if takes_density(sparsity) else []
    try:
        by_layer = sparsity.resolve()(layers, *asked, **arguments)
    except DensityError as error:
        raise UserError(f"sparsity={sparsity.name}: {error}") from None
    return er_source(settings, layers, by_layer, asked[0] if asked else expected_density(layers, by_layer))


def _from_file(settings: Settings, layers: list[Layer], file: DensityFile) -> Source:
    check_shapes(file, layers, settings.model.name)
    try:
        by_layer = from_file(layers, file.by_layer)
    except DensityError as error:
        raise UserError(f"sparsity.file={settings.sparsity.file}: {error}") from None
    return source_from(settings, layers, file, expected_density(layers, by_layer))
