"""Library functions for notebooks and scripts: sparsify any module, and load networks and images of finished runs."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.drawing import check_drawing, is_pattern
from ersparse.config.groups import build
from ersparse.config.model_settings import ModelSettings
from ersparse.config.options import options_of, with_defaults
from ersparse.config.types import plain
from ersparse.data.load import load_arrays
from ersparse.data.streamed import ImageData
from ersparse.errors import UserError
from ersparse.locate import locate, locate_defined
from ersparse.loops.pruners import PRUNERS, pruner_masks
from ersparse.loops.usable import usable_layers
from ersparse.models.build import NetworkSpec
from ersparse.sparse import density as densities
from ersparse.sparse import mask
from ersparse.sparse.budget import budget_excess
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.flow_repair import FlowError
from ersparse.sparse.layers import Layer, unpruned_matrices
from ersparse.sparse.mask import Masks
from ersparse.sparse.patterned_source import PatternedSource
from ersparse.sparse.patterns import checked_pattern
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.selection import Selection, spread
from ersparse.sparse.source import REPAIRS, SAMPLINGS, ERSource, Repair
from ersparse.sparse.summary import describe_masks, unpruned_line
from ersparse.sparse.wrappers import check_not_sharded, unwrapped
from ersparse.storage.run_folder import RunFolder, network_masks, network_tensors, read_network

DensityFunction = Callable[..., list[float]]


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
        density, options = partial(_pruner_densities, module, density, examples, options), {}
    if not callable(flow):
        _one_of("flow", flow, REPAIRS)
    _one_of("sampling", sampling, dict.fromkeys(SAMPLINGS))
    if pattern is not None and not is_pattern(pattern):
        raise UserError(f"pattern={pattern}: must be N:M with N < M, RxC, or None")
    check_drawing(sampling, flow, "", pattern)
    try:
        nominal, by_layer = _densities(selected, density, level, budget, options, selection)
        source = ERSource(selected, by_layer, nominal, seed, sampling, flow)
        if pattern is not None:
            kept = checked_pattern(pattern, selected, by_layer)
            source = PatternedSource(selected, by_layer, nominal, seed, sampling, flow, pattern=kept)
        source.drawing_densities()
    except (densities.DensityError, FlowError) as error:
        raise UserError(f"density={_name(density)}: {error}") from None
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


def load(run: str | Path, *, trust: Sequence[str] = ()) -> nn.Module:
    """Load the network of a finished run, on the CPU and in evaluation mode.

    The folder may be somebody else's: its record may name networks of ersparse, torchvision and timm only.

    Args:
        run: path of the run folder.
        trust: packages, modules or classes whose code the record may name besides, such as that of your own network.

    Returns:
        The network with its trained weights; its masks are attached as buffers, and removed weights are zero.

    Raises:
        UserError: the folder holds no finished run that trained, network.safetensors is damaged, or the record names
            code that is not trusted.

    Example:
        >>> network = ersparse.load("outputs/runs/resnet20-digits-balanced0.9-fixed-0123abcd/s0")
        >>> logits = network(images)
    """
    record = RunFolder(Path(run)).read()
    if record and record.get("state") == "done" and not record.get("metrics"):
        raise UserError(f"{run}: has no network, it was only drawn; must be the folder of a run that trained")
    state, _ = read_network(Path(run), str(run))
    if record is None:
        raise UserError(f"{run}: has no run.json that can be read; must be the folder of a finished run")
    model, dataset = record["config"]["model"], record["config"]["dataset"]
    size = dataset["image_size"]
    own = {key: model[key] for key in model.keys() - {"_target_", *ModelSettings.model_fields}} | model.get("args", {})
    network = NetworkSpec(
        model["_target_"],
        dataset["num_classes"],
        dataset["channels"],
        model["width"],
        json.dumps(own),
        size if isinstance(size, int) else tuple(size),
    ).build_as_recorded(trust)
    network.load_state_dict(network_tensors(state))
    mask.attach(network, network_masks(state))
    mask.enforce(network)
    mask.enforce_on_load(network)
    return network.eval()


def load_images(run: str | Path, *, trust: Sequence[str] = ()) -> ImageData:
    """Load the images that a run was trained and tested on.

    Args:
        run: path of the run folder.
        trust: packages, modules or functions whose code the record may name besides those of ersparse.

    Returns:
        Training and test images, uint8 and in the image size of the run, with their labels.

    Raises:
        UserError: the folder holds no run, the data set is not available, or the record names code that is not
            trusted.

    Example:
        >>> images = ersparse.load_images("outputs/runs/resnet20-digits-balanced0.9-fixed-0123abcd/s0")
        >>> images.x_test.shape, images.y_test.shape
    """
    record = RunFolder(Path(run)).read()
    if record is None or "dataset" not in record.get("config", {}):
        raise UserError(f"{run}: has no run.json that can be read; must be the folder of a run")
    dataset = record["config"]["dataset"]
    locate_defined(str(dataset.get("_target_")), ["ersparse.data"], trust, "dataset._target_")
    return load_arrays(build(DatasetSettings, dataset, "dataset."))


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


def _densities(
    layers: list[Layer],
    density: str | DensityFunction | Mapping[str, float],
    level: float,
    budget: int | None,
    options: dict[str, Any],
    selection: Selection,
) -> tuple[float, list[float]]:
    """Return the nominal global density, and the density of each layer.

    Raises:
        UserError: `level`, `budget` or an option is not allowed.
        DensityError: the rule cannot meet the budget, or returns densities that are not valid.
    """
    if not (isinstance(level, (int, float)) and 0 <= level < 1):
        raise UserError(f"level={level}: must lie in [0, 1), as a number")
    total = sum(layer.size for layer in layers)
    if budget is not None and not (isinstance(budget, int) and len(layers) <= budget <= total):
        raise UserError(
            f"budget={budget}: must lie in [{len(layers)}, {total}], from one weight a layer to all, as an integer"
        )
    if not (isinstance(density, str | Mapping) or callable(density)):
        raise UserError(f"density={density}: must be a name, a function, or a mapping from parameter name to density")
    rule: DensityFunction = _density_function(density) if isinstance(density, str) else density  # type: ignore[assignment]
    if isinstance(density, Mapping):
        rule = partial(densities.from_file, file=density)
    takes = list(inspect.signature(rule).parameters)[1:]
    if unknown := sorted(set(options) - set(takes)):
        raise UserError(f"{unknown[0]}={options[unknown[0]]}: density={_name(density)} has no such option")
    own = selection.own_densities(layers)
    if "density" not in takes:  # the rule defines the global density
        by_layer = [own.get(layer.name, p) for layer, p in zip(layers, rule(layers, **options), strict=True)]
        return densities.expected_density(layers, _checked(layers, by_layer)), by_layer
    nominal = 1 - level if budget is None else budget / total
    return nominal, _checked(layers, spread(partial(rule, **options), layers, nominal, own))


def _pruner_densities(
    module: nn.Module, name: str, examples: Any, options: Mapping[str, Any], layers: list[Layer], density: float
) -> list[float]:
    """Return the density of each layer in the masks of a pruner."""
    count, among = round(density * sum(layer.size for layer in layers)), [layer.name for layer in layers]
    masks = pruner_masks(module, name, count, examples, {**options, "among": among})
    return [int(masks[layer.name].sum()) / layer.size for layer in layers]


def _checked(layers: list[Layer], by_layer: list[float]) -> list[float]:
    """Return densities unchanged after checking their number and range."""
    if len(by_layer) != len(layers):
        raise densities.DensityError(f"returned {len(by_layer)} densities for {len(layers)} layers")
    for layer, density in zip(layers, by_layer, strict=True):
        if not 0 <= density <= 1:
            raise densities.DensityError(f"layer {layer.name}: density {density}, must lie in [0, 1]")
    return by_layer


def _density_function(name: str) -> DensityFunction:
    """Return the function that the option `name` of conf/sparsity names, if it computes densities from layers alone."""
    if name not in options_of("sparsity") or not (function := _computes_densities(name)):
        allowed = [option for option in options_of("sparsity") if _computes_densities(option)] + list(PRUNERS)
        raise UserError(f"density={name}: must be one of {', '.join(allowed)}")
    return function


def _computes_densities(option: str) -> DensityFunction | None:
    function: DensityFunction = locate(with_defaults("sparsity", option)["_target_"])
    parameters = inspect.signature(function).parameters
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    if option == "narrow":  # its densities follow from the width, which a module has already
        return None
    return function if "layers" in needed <= {"layers", "density"} else None


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


def _name(density: str | DensityFunction | Mapping[str, float]) -> str:
    return density if isinstance(density, str) else getattr(density, "__name__", "the densities given")
