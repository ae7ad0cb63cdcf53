"""From settings to a plan: everything about a run that is known, and checked, before anything is created."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ersparse.config.schema import Settings, locate
from ersparse.errors import UserError
from ersparse.kernels.cost_model import WORTHWHILE_SPEEDUP, predicted_speedup
from ersparse.kernels.fused_graph import FusedGraph, NotCovered
from ersparse.methods.base import Method, method_of
from ersparse.runs.identity import describe, run_hash, takes_density
from ersparse.sources.iterative_run import IterativeRunSource
from ersparse.sources.select import source_of
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.density import expected_density
from ersparse.sparse.layers import Layer, positions, prunable_layers
from ersparse.sparse.mask import digest, generator
from ersparse.sparse.reachability import ChannelOp
from ersparse.sparse.source import Source, repairs
from ersparse.storage import density_file
from ersparse.storage.checkpoints import CheckpointFiles
from ersparse.storage.density_file import DensityFile
from ersparse.storage.run_folder import network_masks, read_network


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
        execution: what `trainer.execution=auto` is on a CPU.
    """

    settings: Settings
    method: Method
    hash: str
    folder: Path
    layers: list[Layer]
    steps: list[ChannelOp] | None
    source: Source | None
    init_from: dict[str, Tensor] | None
    execution: str

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

    @property
    def positions(self) -> dict[str, int]:
        """By layer, how often one image uses each of its weights."""
        return _positions(_network_of(self.settings), self.settings.dataset.image_size)

    def checkpoints(self) -> CheckpointFiles:
        return CheckpointFiles(self.folder / "checkpoints", f"{self.hash}/{self.settings.seed}")

    def network(self) -> nn.Module:
        """What is trained, on the CPU, with its first weights; control=reinit draws others than were scored."""
        if self.settings.sparsity.control != "reinit":
            return self.initial()
        return self._random("weights") if self.init_from else self._random("weights", "reinit")

    def initial(self) -> nn.Module:
        """The network with the weights of `init_from`, or random ones."""
        network = self._random("weights")
        if self.init_from is not None:
            weights = {key: value for key, value in self.init_from.items() if value.dtype != torch.bool}
            network.load_state_dict(weights)
        return network

    def _random(self, *words: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(self.settings.seed_of("init"), *words).integers(2**62)))
            return _network_of(self.settings).build()


def make_plan(settings: Settings) -> Plan:
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
    _check_execution(settings, method)
    init_from, file, contents = _read_files(settings)
    if init_from is not None:
        _same_architecture(settings, network, init_from)
    source = source_of(settings, layers, init_from, contents["init_from"], file)
    method.check(settings, layers, source)
    contents["run"] = source.run.hash if isinstance(source, IterativeRunSource) else None
    contents["kind"] = "ticket" if init_from and network_masks(init_from) else "er"
    run = run_hash(describe(settings, method, contents))
    folder = Path(settings.paths.root) / (settings.experiment or "runs") / _name(settings, contents["kind"], run)
    if isinstance(followed, GraphError) and repairs(source):
        raise UserError(f"sparsity.flow={settings.sparsity.flow}: {followed}")
    steps = None if isinstance(followed, GraphError) else followed
    execution = "sparse" if _sparse_pays(settings, method, layers, source) else "masked"
    return Plan(settings, method, run, folder / f"s{settings.seed}", layers, steps, source, init_from, execution)


def _check_together(settings: Settings) -> None:
    """What no group can check alone."""
    model, logger = settings.model, settings.logger.name
    if model.init_from and model.init != "default" and settings.sparsity.control != "reinit":
        raise UserError(f"model.init={model.init}: must be default with model.init_from, or it replaces those weights")
    if logger != "csv" and importlib.util.find_spec(logger) is None:
        raise UserError(f"logger={logger}: is not installed; pip install {logger}, or logger=csv")


def _check_execution(settings: Settings, method: Method) -> None:
    execution = settings.trainer.execution
    if execution not in method.executions:
        *most, last = method.executions
        allowed = f"{', '.join(most)} or {last}"
        raise UserError(f"trainer.execution={execution}: must be {allowed} with method={method.name}")
    if execution != "sparse":
        return
    if settings.model.sync_batchnorm:
        raise UserError("trainer.execution=sparse: must be auto, masked or compiled with model.sync_batchnorm=true")
    if error := _not_covered(_network_of(settings)):
        raise UserError(f"trainer.execution=sparse: {error} is not covered; must be auto, masked or compiled")


def _sparse_pays(settings: Settings, method: Method, layers: list[Layer], source: Source | None) -> bool:
    """Whether sparse execution can do all of it, and is faster by far."""
    if not (source and method.sparse_at_will):
        return False
    positions = _positions(_network_of(settings), settings.dataset.image_size)
    operations = [layer.size * positions[layer.name] for layer in layers]
    if predicted_speedup(zip(operations, source.densities, strict=True)) < WORTHWHILE_SPEEDUP:
        return False
    sparse = settings.trainer.model_copy(update={"execution": "sparse"})
    try:
        _check_execution(settings.model_copy(update={"trainer": sparse}), method)
    except UserError:
        return False
    return True


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


class _Undrawn(TorchFunctionMode):
    """Leaves normal weights undrawn, be it by `Tensor.normal_` or `nn.init.normal_`: without memory there is nothing to
    draw, and PyTorch would import its compiler for it, which takes two seconds.
    """

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = keywords or {}
        if function.__name__ == "normal_":
            return [*arguments, *keywords.values()][0]
        return function(*arguments, **keywords)


@lru_cache(maxsize=64)  # the jobs of a sweep have few networks between them
def _architecture(network: Network) -> tuple[nn.Module, list[Layer], list[ChannelOp] | GraphError]:
    """The network without its weights, its layers, and its channel graph, or why it cannot be followed."""
    with torch.device("meta"), _Undrawn():
        module = network.build()
    try:
        return module, prunable_layers(module), trace(module)
    except GraphError as error:
        return module, prunable_layers(module), error


@lru_cache(maxsize=64)
def _not_covered(network: Network) -> NotCovered | None:
    """What sparse execution has no kernel for."""
    module, _, _ = _architecture(network)
    try:
        FusedGraph(module)
    except NotCovered as error:
        return error
    return None


@lru_cache(maxsize=64)
def _positions(network: Network, side: int) -> dict[str, int]:
    module, _, _ = _architecture(network)
    return positions(module, network.channels, side)


def _read_files(settings: Settings) -> tuple[dict[str, Tensor] | None, DensityFile | None, dict[str, Any]]:
    """The network of `model.init_from`, the densities of `sparsity.file`, and hashes of what both hold."""
    contents: dict[str, Any] = {"init_from": None, "file": None}
    state = file = None
    if settings.model.init_from is not None:
        state, contents["init_from"] = read_network(
            Path(settings.model.init_from), f"model.init_from={settings.model.init_from}"
        )
    if settings.sparsity.name == "file":
        file = density_file.read(Path(str(settings.sparsity.file)))
        contents["file"] = digest(file.masks()) if settings.sparsity.keep_mask else file.hash
    return state, file, contents


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


def _name(settings: Settings, kind: str, run: str) -> str:
    """<model>-<dataset>-<sparsity><level>-<method>-<hash8>."""
    sparsity = settings.sparsity
    asked = f"{sparsity.level:g}" if sparsity.budget is None else f"{sparsity.budget}w"
    option = "ticket" if kind == "ticket" else sparsity.name + (asked if takes_density(sparsity) else "")
    method = settings.method["name"]
    return f"{settings.model.name}-{settings.dataset.name}-{option}-{method}-{run[:8]}"
