"""For a notebook: any module made sparse, and runs read back. What `python launch.py` does, in single steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ersparse.config.groups import build
from ersparse.config.options import options_of, with_defaults
from ersparse.config.schema import DatasetSettings, ModelSettings
from ersparse.data.arrays import Arrays
from ersparse.data.load import load_arrays
from ersparse.errors import UserError
from ersparse.locate import locate
from ersparse.models.build import NetworkSpec
from ersparse.sparse import density as densities
from ersparse.sparse import mask
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.flow_repair import FlowError
from ersparse.sparse.layers import Layer, prunable_layers, prunable_modules
from ersparse.sparse.mask import Masks
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.source import REPAIRS, SAMPLERS, ERSource, Repair
from ersparse.sparse.summary import describe_masks
from ersparse.storage.run_folder import RunFolder, network_masks, read_network

DensityFunction = Callable[..., list[float]]


class Sparsified(NamedTuple):
    """What `sparsify` did.

    Attributes:
        masks: parameter name -> boolean tensor; the very buffers of the module.
        record: "sparsity", "layers" and "mask_sha256", as in run.json.
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
    seed: int = 0,
    **options: Any,
) -> Sparsified:
    """Makes `module` an Erdős–Rényi network: draws and repairs masks, attaches them, and zeroes what they remove.

    The masks stay through training with `keep_masks`, or with the Lightning callback `FixedMask`.

    Args:
        module: any module with convolutions or linear layers, grouped ones included, on any device.
        density: a rule by its name ("erk", ...), a function (layers, density, **options) -> densities, or the
            densities themselves by parameter name.
        level: the sparsity asked for, in [0, 1).
        budget: in place of `level`: how many weights stay.
        flow: what happens to channels without an edge: "none", "add", "move", "resample" or "released", or a function
            (mask, layer, density, generator) -> (mask, counts). All but "none" need a module that torch.fx can trace.
        sampling: "bernoulli" or "exact".
        seed: of the masks, which follow from it and the layers' names alone.
        options: of the rule, such as floor=1.

    Raises:
        UserError: one line; the module is then as it was.
    """
    layers = _layers(module)
    if isinstance(flow, str):
        _one_of("flow", flow, REPAIRS)
    _one_of("sampling", sampling, SAMPLERS)
    if (flow, sampling) == ("resample", "exact"):
        raise UserError("sampling=exact: must be bernoulli with flow=resample, which conditions independent draws")
    try:
        nominal, by_layer = _densities(layers, density, level, budget, options)
        source = ERSource(layers, by_layer, nominal, seed, sampling, flow)
        source.drawing_densities()
    except (densities.DensityError, FlowError) as error:
        raise UserError(f"density={_name(density)}: {error}") from None
    steps = _steps(module, flow)
    masks, counts = source.repair(source.draw())
    record = describe_masks(layers, by_layer, nominal, masks, counts, steps)
    mask.attach(module, masks)
    mask.enforce(module)
    return Sparsified(mask.masks_of(module), record)


def load(run: str | Path) -> nn.Module:
    """The network of a finished run, with its weights and masks, on the CPU and in eval mode.

    Raises:
        UserError: the folder holds no finished run.
    """
    record = RunFolder(Path(run)).read()
    if record and record.get("state") == "done" and not record.get("metrics"):
        raise UserError(f"{run}: has no network, it was only drawn; must be the folder of a run that trained")
    state, _ = read_network(Path(run), str(run))
    if record is None:
        raise UserError(f"{run}: has no run.json that can be read; must be the folder of a finished run")
    model, dataset = record["config"]["model"], record["config"]["dataset"]
    own = tuple((key, value) for key, value in model.items() if key not in {"_target_", *ModelSettings.model_fields})
    network = NetworkSpec(model["_target_"], dataset["num_classes"], dataset["channels"], model["width"], own).build()
    network.load_state_dict({name: tensor for name, tensor in state.items() if tensor.dtype != torch.bool})
    mask.attach(network, network_masks(state))
    mask.enforce(network)
    return network.eval()


def load_images(run: str | Path) -> Arrays:
    """The images that a run was trained and tested with, in its size, as uint8.

    Raises:
        UserError: the folder holds no run, or the images are not where they were.
    """
    record = RunFolder(Path(run)).read()
    if record is None or "dataset" not in record.get("config", {}):
        raise UserError(f"{run}: has no run.json that can be read; must be the folder of a run")
    return load_arrays(build(DatasetSettings, record["config"]["dataset"], "dataset."))


def _layers(module: nn.Module) -> list[Layer]:
    holders, where = prunable_modules(module), f"module={type(module).__name__}"
    if not holders:
        raise UserError(f"{where}: has no prunable weights, that is, no convolution or linear layer")
    for name, holder in holders.items():
        if not isinstance(holder.weight, nn.Parameter):  # torch.nn.utils.prune names its masks as we do
            raise UserError(f"{where}: {name} is computed from other tensors, must be a parameter")
        if hasattr(holder, mask.BUFFER):
            raise UserError(f"{where}: is sparse already ({name} has a mask)")
        if isinstance(holder.weight, nn.UninitializedParameter):
            raise UserError(f"{where}: {name} has no shape yet; pass a batch through the module first")
    return prunable_layers(module)


def _densities(
    layers: list[Layer],
    density: str | DensityFunction | Mapping[str, float],
    level: float,
    budget: int | None,
    options: Any,
) -> tuple[float, list[float]]:
    """The global density asked for, and each layer's."""
    if not (isinstance(level, (int, float)) and 0 <= level < 1):
        raise UserError(f"level={level}: must lie in [0, 1)")
    total = sum(layer.size for layer in layers)
    if budget is not None and not (isinstance(budget, int) and len(layers) <= budget <= total):
        raise UserError(f"budget={budget}: must lie in [{len(layers)}, {total}], from one weight a layer to all")
    rule: DensityFunction = _density_function(density) if isinstance(density, str) else density  # type: ignore[assignment]
    if isinstance(density, Mapping):
        rule = partial(densities.from_file, file=density)
    takes = list(inspect.signature(rule).parameters)[1:]
    if unknown := sorted(set(options) - set(takes)):
        raise UserError(f"{unknown[0]}={options[unknown[0]]}: density={_name(density)} has no such option")
    if "density" not in takes:  # it brings its own
        by_layer = _checked(layers, rule(layers, **options))
        return densities.expected_density(layers, by_layer), by_layer
    nominal = 1 - level if budget is None else budget / total
    return nominal, _checked(layers, rule(layers, nominal, **options))


def _checked(layers: list[Layer], by_layer: list[float]) -> list[float]:
    if len(by_layer) != len(layers):
        raise densities.DensityError(f"gives {len(by_layer)} densities, there are {len(layers)} layers")
    for layer, density in zip(layers, by_layer, strict=True):
        if not 0 <= density <= 1:
            raise densities.DensityError(f"layer {layer.name}: density {density}, must lie in [0, 1]")
    return by_layer


def _density_function(name: str) -> DensityFunction:
    """Return the function that the option `name` of conf/sparsity names, if it computes densities from layers alone."""
    if name not in options_of("sparsity") or not (function := _computes_densities(name)):
        allowed = [option for option in options_of("sparsity") if _computes_densities(option)]
        raise UserError(f"density={name}: must be one of {', '.join(allowed)}")
    return function


def _computes_densities(option: str) -> DensityFunction | None:
    function: DensityFunction = locate(with_defaults("sparsity", option)["_target_"])
    parameters = inspect.signature(function).parameters
    needed = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    return function if "layers" in needed <= {"layers", "density"} else None


def _steps(module: nn.Module, flow: str | Repair) -> list[ChannelOp] | None:
    try:
        return trace(module)
    except GraphError as error:
        if flow != "none":
            raise UserError(f"flow={flow}: {error}") from None
        return None


def _one_of(key: str, value: str, allowed: Mapping[str, Any]) -> None:
    if value not in allowed:
        raise UserError(f"{key}={value}: must be one of {', '.join(allowed)}")


def _name(density: str | DensityFunction | Mapping[str, float]) -> str:
    return density if isinstance(density, str) else getattr(density, "__name__", "the densities given")
