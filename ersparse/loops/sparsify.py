"""Make any network an Erdős–Rényi network: the masks of a run, without the run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from ersparse.config.drawing import check_drawing, is_pattern
from ersparse.config.types import plain
from ersparse.errors import UserError
from ersparse.loops.layer_densities import DensityFunction, layer_densities, name_of, pruner_densities
from ersparse.loops.pruners import PRUNERS
from ersparse.loops.usable import usable_layers
from ersparse.sparse import mask
from ersparse.sparse.budget import budget_excess
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.density import DensityError
from ersparse.sparse.flow_repair import FlowError
from ersparse.sparse.layers import Layer, unpruned_matrices
from ersparse.sparse.mask import Masks
from ersparse.sparse.patterned_source import PatternedSource
from ersparse.sparse.patterns import checked_pattern
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.selection import Selection
from ersparse.sparse.source import REPAIRS, SAMPLINGS, ERSource, Repair
from ersparse.sparse.summary import describe_masks, unpruned_line
from ersparse.sparse.wrappers import check_not_sharded, unwrapped


class Sparsified(NamedTuple):
    """The result of `sparsify`.

    Attributes:
        masks: boolean masks by parameter name; they are the mask buffers of the module, not copies.
        record: the entries "sparsity", "layers" and "mask_sha256" of run.json.
    """

    masks: Masks
    record: dict[str, Any]


def sparsify(
    module: nn.Module,
    density: str | DensityFunction | Mapping[str, float] = "balanced",
    level: float = 0.9,
    *,
    budget: int | None = None,
    flow: str | Repair = "move",
    sampling: str = "bernoulli",
    pattern: str | None = None,
    seed: int = 0,
    strict: bool = False,
    examples: Any = None,
    redraw: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    layers: Mapping[str, float] | None = None,
    first_dense: bool = False,
    last_dense: bool = False,
    **options: Any,
) -> Sparsified:
    """Turn `module` into an Erdős–Rényi network in place.

    Draws a mask for each prunable layer, repairs the flow, attaches the masks as buffers, and sets removed weights to
    zero. `load_state_dict` sets them to zero as well, so a dense checkpoint can be loaded (with strict=False, since it
    has no masks). To keep them at zero during training, use `keep_masks(module, optimizer)` or the Lightning callback
    `FixedMask`.

    Args:
        module: any module with prunable weights (`ersparse.sparse.layers.prunable_weights`): convolutions, linear,
            attention or recurrent layers; on any device. In a wrapper (DataParallel, DistributedDataParallel,
            torch.compile, AveragedModel, Fabric) it gets the masks, names and record that it gets without.
        density: the layer density rule: its name ("balanced", "erk", ...), a pruner whose layer densities are taken
            ("snip", "grasp", "synflow", "magnitude"), a function (layers, density, **options) -> densities, or a
            mapping from parameter name to density.
        level: nominal global sparsity, in [0, 1).
        budget: nominal number of weights to keep, from one per layer to all; replaces `level`.
        flow: repair of channels without an edge: "none", "add", "move", "resample" or "released", or a function
            (mask, layer, density, generator) -> (mask, counts). All but "none" require a module whose channel graph
            can be traced (`docs/methods.md`).
        sampling: "bernoulli" draws each weight independently, "exact" a fixed number per layer, "fan_in" the same
            number for every output channel of a layer (with flow "move" or "none"), "ramanujan" for every input
            channel as well, as an expander.
        pattern: "N:M" keeps N of every M consecutive input channels, and needs density="uniform"; "RxC" keeps or
            removes blocks of R output and C input channels. None draws single weights.
        seed: seed of the masks, which depend on it and on the layers' names and shapes alone.
        strict: whether a missed budget (`ersparse.sparse.budget.budget_excess`) is an error instead of a warning. It
            is missed if the masks keep more weights than `level` or `budget` allows, beyond the chance of drawing.
        examples: what a pruner scores with: a batch (inputs, labels) or a loader of batches. "synflow" needs the shape
            of an input only, examples or shape=(C, H, W); "magnitude" needs none.
        redraw: whether a module that has masks already gets new ones. Weights that only the new masks keep are zero.
            `ersparse.prune` prunes a module with masks further.
        include: patterns of the weights that are pruned, such as ["encoder.*", "head.weight"]; None is every prunable
            weight. Embeddings are pruned only if a pattern matches them.
        exclude: patterns of weights that stay dense. They do not count in `level` and `budget`.
        layers: densities of single layers by pattern, such as {"head.*": 0.5}; of several the last one counts. The rule
             spreads what is left of the budget over the other layers.
        first_dense: whether the first layer is kept whole, likewise.
        last_dense: whether the last layer is kept whole, likewise.
        **options: options of the rule or pruner, such as floor=1 or images=128.

    Matrices that stay dense, such as embeddings, are named in the record and in a warning.

    Returns:
        The masks and a record of densities, degrees and repairs.

    Raises:
        UserError: an argument is out of range, or the module has no prunable weights, has masks already, cannot be
            scored or traced, or is sharded over devices; or the budget is missed and `strict` is set. The message is
            one line, and the module is unchanged.

    Example:
        >>> network = torchvision.models.resnet18()
        >>> masks, record = ersparse.sparsify(network, density="erk", level=0.95)
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"module={module!r}: must be a torch.nn.Module")
    level, budget, seed = plain(level), plain(budget), plain(seed)
    if not isinstance(seed, int):
        raise UserError(f"seed={seed}: must be an integer")
    check_not_sharded(module)
    module = unwrapped(module)
    include = [include] if isinstance(include, str) else include
    selection = Selection(
        include, [exclude] if isinstance(exclude, str) else exclude, layers or {}, first_dense, last_dense
    )
    selected = _layers(module, redraw, selection)
    if isinstance(density, str) and density in PRUNERS:
        density, options = partial(pruner_densities, module, density, examples, options), {}
    if not callable(flow):
        _one_of("flow", flow, REPAIRS)
    _one_of("sampling", sampling, dict.fromkeys(SAMPLINGS))
    if pattern is not None and not is_pattern(pattern):
        raise UserError(f"pattern={pattern}: must be N:M with N < M, RxC, or None")
    check_drawing(sampling, flow, "", pattern)
    try:
        nominal, by_layer = layer_densities(selected, density, level, budget, options, selection)
        source = ERSource(selected, by_layer, nominal, seed, sampling, flow)
        if pattern is not None:
            kept = checked_pattern(pattern, selected, by_layer)
            source = PatternedSource(selected, by_layer, nominal, seed, sampling, flow, pattern=kept)
        source.drawing_densities()
    except (DensityError, FlowError) as error:
        raise UserError(f"density={name_of(density)}: {error}") from None
    graph = _channel_graph(module, flow)
    masks, counts = source.repair(source.draw())
    if excess := budget_excess(source, masks):
        if strict:
            raise UserError(f"strict=true: {excess}")
        warnings.warn(excess, stacklevel=2)
    unpruned = unpruned_matrices(module, [layer.name for layer in selected])
    record = describe_masks(selected, by_layer, nominal, masks, counts, graph, unpruned)
    if line := unpruned_line(record["sparsity"]):
        warnings.warn(line, stacklevel=2)
    mask.attach(module, masks)
    mask.enforce(module)
    mask.enforce_on_load(module)
    return Sparsified(mask.masks_of(module), record)


def _layers(module: nn.Module, redraw: bool, selection: Selection) -> list[Layer]:
    """Return the selected layers of a module that can be made sparse.

    Raises:
        UserError: there are none, or one is masked and not drawn again, sharded, reparametrised or uninitialised.
    """
    layers = usable_layers(module, selection)
    drawn = {layer.name for layer in layers if redraw}
    if masked := [name for name in mask.masks_of(module) if name not in drawn]:
        raise UserError(
            f"module={type(module).__name__}: is sparse already ({masked[0]} has a mask); prune prunes it further, "
            "redraw=true draws new masks, and remove_masks takes them off"
        )
    return layers


def _channel_graph(module: nn.Module, flow: str | Repair) -> list[ChannelOp] | None:
    """Return the channel graph; None if it cannot be traced and no repair needs it."""
    try:
        return trace(module)
    except GraphError as error:
        if flow != "none":
            raise UserError(f"flow={flow}: {error}") from None
        return None


def _one_of(key: str, value: str, allowed: Mapping[str, Any]) -> None:
    """Check that `value` is one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{key}={value}: must be one of {', '.join(allowed)}")
