"""From settings to a plan: everything about a run that is known, and checked, before anything is created."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ersparse.errors import UserError
from ersparse.kernels.graph import Graph, NotCovered
from ersparse.methods.base import Method, method_of
from ersparse.runs.checkpoints import CheckpointFiles
from ersparse.runs.folder import network_masks, read_densities, read_network
from ersparse.runs.identity import applicable, describe, run_hash, takes_density
from ersparse.settings import Settings, locate
from ersparse.sparse.density import DensityError, expected_density
from ersparse.sparse.flow import FlowError
from ersparse.sparse.graph import Step
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.mask import generator
from ersparse.sparse.source import ERSource, Source, TicketSource
from ersparse.sparse.trace import GraphError, trace


@dataclass(frozen=True)
class Plan:
    """A run that can be started.

    Attributes:
        hash: of its identity.
        folder: where it leaves its results.
        layers: prunable layers of the network.
        steps: the network's channel graph; None where it cannot be followed.
        source: of the masks; None is a dense network.
        init_from: weights (and masks) to start from; None draws them.
    """

    settings: Settings
    method: Method
    hash: str
    folder: Path
    layers: list[Layer]
    steps: list[Step] | None
    source: Source | None
    init_from: dict[str, Tensor] | None

    @property
    def epochs(self) -> int:
        return self.method.epochs(self.settings)

    @property
    def nominal(self) -> float:
        """The global density asked for."""
        return self.source.nominal if self.source else 1.0

    @property
    def expected(self) -> float:
        """The global density that the layer densities add up to."""
        return expected_density(self.layers, self.source.densities) if self.source else 1.0

    def checkpoints(self) -> CheckpointFiles:
        return CheckpointFiles(self.folder / "checkpoints", f"{self.hash}/{self.settings.seed}")

    def network(self) -> nn.Module:
        """The network with its initial weights, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(self.settings.seed_of("init"), "weights").integers(2**62)))
            network = _network_of(self.settings).build()
        if self.init_from is not None and self.settings.sparsity.control != "reinit":
            weights = {key: value for key, value in self.init_from.items() if value.dtype != torch.bool}
            network.load_state_dict(weights)
        return network


def plan(settings: Settings) -> Plan:
    """Checks what can be checked without data, and works out layers, densities, identity and folder.

    Raises:
        UserError: one line, naming the key.
    """
    method = method_of(settings)
    _check_together(settings)
    network, layers, followed = _architecture(_network_of(settings))
    smallest = int(network.shrinks_by)  # type: ignore[arg-type]
    if settings.dataset.image_size < smallest:
        raise UserError(
            f"dataset.image_size={settings.dataset.image_size}: too small for model={settings.model.name}, "
            f"must lie in [{smallest}, inf)"
        )
    _check_execution(settings, method, network)
    init_from, contents = _read_files(settings)
    if init_from is not None:
        _same_architecture(settings, network, init_from)
    source = _source(settings, layers, init_from, contents["densities"])
    method.check(settings, layers, source)
    contents["kind"] = "ticket" if isinstance(source, TicketSource) else "er"
    run = run_hash(describe(settings, method, contents))
    folder = Path(settings.paths.root) / (settings.experiment or "runs") / _name(settings, source, run)
    if isinstance(followed, GraphError) and isinstance(source, ERSource) and source.flow != "none":
        raise UserError(f"sparsity.flow={source.flow}: {followed}")
    steps = None if isinstance(followed, GraphError) else followed
    return Plan(settings, method, run, folder / f"s{settings.seed}", layers, steps, source, init_from)


def _check_together(settings: Settings) -> None:
    """What no group can check alone."""
    model, logger = settings.model, settings.logger.name
    if model.init_from and model.init != "default" and settings.sparsity.control != "reinit":
        raise UserError(f"model.init={model.init}: must be default with model.init_from, or it replaces those weights")
    if logger != "csv" and importlib.util.find_spec(logger) is None:
        raise UserError(f"logger={logger}: is not installed; pip install {logger}, or logger=csv")


def _check_execution(settings: Settings, method: Method, network: nn.Module) -> None:
    execution = settings.trainer.execution
    if execution not in method.executions:
        allowed = " or ".join(method.executions)
        raise UserError(f"trainer.execution={execution}: must be {allowed} with method={method.name}")
    if execution != "sparse":
        return
    if settings.model.sync_batchnorm:
        raise UserError("trainer.execution=sparse: must be auto or masked with model.sync_batchnorm=true")
    try:
        Graph(network)
    except NotCovered as error:
        raise UserError(f"trainer.execution=sparse: {error} is not covered; must be auto or masked") from None


class Network(NamedTuple):
    """What a network is built from."""

    target: str
    num_classes: int
    channels: int
    width: float

    def build(self) -> nn.Module:
        network = locate(self.target)(self.num_classes, channels=self.channels, width=self.width)
        assert isinstance(network, nn.Module)
        return network


def _network_of(settings: Settings) -> Network:
    model, dataset = settings.model, settings.dataset
    return Network(model.target, dataset.num_classes, dataset.channels, model.width)


@lru_cache(maxsize=64)  # the jobs of a sweep have few networks between them
def _architecture(network: Network) -> tuple[nn.Module, list[Layer], list[Step] | GraphError]:
    """The network without its weights, its layers, and its channel graph, or why it cannot be followed."""
    with torch.device("meta"):
        module = network.build()
    try:
        return module, prunable_layers(module), trace(module)
    except GraphError as error:
        return module, prunable_layers(module), error


def _read_files(settings: Settings) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """The network of `model.init_from`, and hashes of what the settings' files hold."""
    contents: dict[str, Any] = {"init_from": None, "file": None, "densities": None}
    state = None
    if settings.model.init_from is not None:
        state, contents["init_from"] = read_network(
            Path(settings.model.init_from), f"model.init_from={settings.model.init_from}"
        )
    if settings.sparsity.name == "file":
        contents["densities"] = read_densities(Path(str(settings.sparsity.file)))
        contents["file"] = hashlib.sha256(json.dumps(contents["densities"], sort_keys=True).encode()).hexdigest()
    return state, contents


def _same_architecture(settings: Settings, network: nn.Module, state: dict[str, Tensor]) -> None:
    theirs = {name for name, tensor in state.items() if tensor.dtype != torch.bool}
    if extra := sorted(theirs - set(network.state_dict())):
        raise UserError(
            f"model.init_from={settings.model.init_from}: has {extra[0]}, "
            f"model={settings.model.name} has no such tensor"
        )
    for name, tensor in network.state_dict().items():
        found = list(state[name].shape) if name in state else "missing"
        if found != list(tensor.shape):
            raise UserError(
                f"model.init_from={settings.model.init_from}: its {name} is {found}, "
                f"model={settings.model.name} has {list(tensor.shape)}"
            )


def _source(
    settings: Settings, layers: list[Layer], init_from: dict[str, Tensor] | None, densities: dict[str, float] | None
) -> Source | None:
    sparsity, seed = settings.sparsity, settings.seed_of("mask")
    if init_from is not None and (masks := network_masks(init_from)):
        return TicketSource(layers, masks, seed, sparsity.control)
    if sparsity.control != "none":
        raise UserError(
            f"sparsity.control={sparsity.control}: must be none, unless model.init_from gives a ticket to control"
        )
    arguments = {
        key: densities if key == "file" else getattr(sparsity, key)
        for key in applicable(sparsity)
        if key not in ("sampling", "flow")
    }
    total = sum(layer.size for layer in layers)
    try:
        if not takes_density(sparsity):
            by_layer = sparsity.resolve()(layers, **arguments)
            nominal = expected_density(layers, by_layer)
        else:
            if sparsity.budget is not None and not len(layers) <= sparsity.budget <= total:
                raise UserError(
                    f"sparsity.budget={sparsity.budget}: must lie in [{len(layers)}, {total}], "
                    "from one weight a layer to all"
                )
            nominal = 1 - sparsity.level if sparsity.budget is None else sparsity.budget / total
            by_layer = sparsity.resolve()(layers, nominal, **arguments)
    except DensityError as error:
        key = f"sparsity.file={sparsity.file}" if sparsity.name == "file" else f"sparsity={sparsity.name}"
        raise UserError(f"{key}: {error}") from None
    if sparsity.name == "dense":
        return None
    source = ERSource(layers, by_layer, nominal, seed, sparsity.sampling, sparsity.flow)
    try:
        source.drawing_densities()
    except FlowError as error:
        raise UserError(f"sparsity.flow={sparsity.flow}: {error}") from None
    return source


def _name(settings: Settings, source: Source | None, run: str) -> str:
    """<model>-<dataset>-<sparsity><level>-<method>-<hash8>."""
    sparsity = settings.sparsity
    asked = f"{sparsity.level:g}" if sparsity.budget is None else f"{sparsity.budget}w"
    if isinstance(source, TicketSource):
        option = "ticket"
    else:
        option = sparsity.name + (asked if takes_density(sparsity) else "")
    method = settings.method["name"]
    return f"{settings.model.name}-{settings.dataset.name}-{option}-{method}-{run[:8]}"
