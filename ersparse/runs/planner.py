"""From settings to a plan: checks that need no data, layers, densities, identity and folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from ersparse.config.command_line import command
from ersparse.config.groups import identity_fields
from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption
from ersparse.config.warmup import length
from ersparse.errors import UserError
from ersparse.kernels.cost_model import WORTHWHILE_SPEEDUP, predicted_speedup
from ersparse.lightning.optimizers import is_elementwise, probe
from ersparse.lightning.parameter_groups import check_groups
from ersparse.lightning.schedules import probe_schedule
from ersparse.locate import own_code
from ersparse.methods.base import Method, method_of
from ersparse.runs.identity import FileHashes, describe, run_hash
from ersparse.runs.loggers.select import logger_of
from ersparse.runs.narrow import with_narrow_width
from ersparse.runs.network import (
    Architecture,
    architecture,
    check_images,
    positions_of,
    spec_of,
    unsupported_operation,
)
from ersparse.runs.permuted import permuted_source, ticket_network
from ersparse.runs.plan import Plan
from ersparse.runs.same_code import check_same_code
from ersparse.sources.er import selection_of
from ersparse.sources.iterative_run import IterativeRunSource, prerequisite_settings
from ersparse.sources.select import select_source
from ersparse.sparse.channel_graph import GraphError
from ersparse.sparse.layers import Layer, prunable_layers, unpruned_matrices
from ersparse.sparse.mask import digest, masks_of
from ersparse.sparse.source import DenseSource, Source, TicketSource
from ersparse.sparse.weight_use import unusable_weight
from ersparse.storage import density_file
from ersparse.storage.density_file import DensityFile
from ersparse.storage.run_folder import network_masks, network_tensors
from ersparse.storage.weights_file import fitting, read_weights

log = logging.getLogger("ersparse")


class InputFiles(NamedTuple):
    """What was read from the files that the settings name; None where they name none.

    Attributes:
        network: weights and masks of `model.init_from`.
        densities: the densities of `sparsity.file`.
        file_hashes: hashes of both.
    """

    network: dict[str, Tensor] | None
    densities: DensityFile | None
    file_hashes: FileHashes


def make_plan(settings: Settings) -> Plan:
    """Check everything that can be checked without data, and work out layers, densities, identity and folder.

    Raises:
        UserError: one line that names the key.
    """
    settings = with_narrow_width(settings)
    method, option = method_of(settings), SparsityOption.of(settings.sparsity)
    _check_across_groups(settings)
    logger_of(settings)
    built = architecture(spec_of(settings))
    _check_image_size(settings, built.module)
    check_images(settings)
    if masks := masks_of(built.module):
        raise UserError(f"model._target_={settings.model.target}: has a mask of its own, {next(iter(masks))}_mask")
    if method.trains:
        _check_optimizer(settings, method, built.module)
        _check_trainer(settings, method)
    _check_execution(settings, method)
    files = _read_files(settings)
    if files.network is not None:
        files = files._replace(network=_fitting(settings, built.module, files.network))
    layers = _layers(settings, built, files)
    source, prerequisite = _select(settings, option, layers, built, files)
    with own_code(f"method={method.name}", str(settings.method["_target_"])):
        method.check(settings, layers, source)
    if isinstance(built.graph, GraphError) and source.flow != "none":
        raise UserError(f"sparsity.flow={settings.sparsity.flow}: {built.graph}")
    epochs = method.epochs(settings)
    file_hashes = files.file_hashes if prerequisite is None else files.file_hashes._replace(run=prerequisite.hash)
    identity = run_hash(describe(settings, option, identity_fields(method), epochs, file_hashes))
    folder = _folder(settings, option, file_hashes, identity)
    check_same_code(settings, folder)
    return Plan(
        settings=settings,
        hash=identity,
        folder=folder,
        layers=layers,
        graph=None if isinstance(built.graph, GraphError) else built.graph,
        unpruned=unpruned_matrices(built.module, [layer.name for layer in layers]),
        source=source,
        init_from=files.network,
        epochs=epochs,
        method=method,
        execution="sparse" if _sparse_execution_pays(settings, method, source) else "masked",
        prerequisite=prerequisite,
    )


def _layers(settings: Settings, built: Architecture, files: InputFiles) -> list[Layer]:
    """Return the layers that are pruned: those of a ticket, or those that `sparsity.include` and `exclude` select.

    Raises:
        UserError: a pattern matches nothing, or a layer cannot be masked.
    """
    ticket = network_masks(files.network) if files.network else {}
    if ticket:
        return [layer for layer in prunable_layers(built.module, embeddings=True) if layer.name in ticket]
    layers = selection_of(settings.sparsity).layers_of(built.module)
    if not settings.sparsity.is_dense and (reason := unusable_weight(built.module, [layer.name for layer in layers])):
        raise UserError(f"model={settings.model.name}: {reason}")
    return layers


def _select(
    settings: Settings, option: SparsityOption, layers: list[Layer], built: Architecture, files: InputFiles
) -> tuple[Source, Plan | None]:
    """Return the source network, and the plan of the run that it takes its densities from, if it does."""
    planned: list[Plan] = []
    names = {layer.name for layer in layers}

    def plan_prerequisite(nominal: float) -> Path:
        planned.append(make_plan(prerequisite_settings(settings, nominal)))
        return planned[0].folder

    source = select_source(
        settings,
        option,
        layers,
        ticket=network_masks(files.network) if files.network else {},
        weights_hash=files.file_hashes.init_from,
        file=files.densities and files.densities.without({layer.name for layer in built.layers} - names),
        prerequisite=plan_prerequisite,
    )
    if settings.sparsity.control == "permute" and isinstance(source, TicketSource):
        source = permuted_source(settings, source, built, files.network)
    prerequisite = planned[0] if planned else None
    if isinstance(source, IterativeRunSource) and prerequisite:
        _check_prerequisite(settings, source, prerequisite)
    return source, prerequisite


def _check_prerequisite(settings: Settings, source: IterativeRunSource, prerequisite: Plan) -> None:
    if not (settings.sparsity.make or settings.dry_run or source.finished_run()):
        raise UserError(
            f"sparsity={settings.sparsity.name}: the run that has these densities is missing; sparsity.make=true "
            f"makes it, as does `{command(prerequisite.settings)}`"
        )


def _check_across_groups(settings: Settings) -> None:
    """Check what no group can check alone."""
    model = settings.model
    if model.init_from and model.init != "default" and settings.sparsity.control not in ("reinit", "permute"):
        raise UserError(f"model.init={model.init}: must be default with model.init_from, or it replaces those weights")


def _check_image_size(settings: Settings, network: nn.Module) -> None:
    smallest = int(getattr(network, "shrinks_by", 1))
    if min(settings.dataset.size) < smallest:
        raise UserError(
            f"dataset.image_size={settings.dataset.image_size}: too small for model={settings.model.name}, "
            f"must lie in [{smallest}, inf)"
        )


def _check_optimizer(settings: Settings, method: Method, network: nn.Module) -> None:
    """Check the optimizer's arguments and groups, and that the schedule fits the learning rates and the length."""
    optimizer, schedule = settings.optimizer, settings.schedule_at_scale()
    check_groups(network, optimizer, probe(network, optimizer).defaults)
    rates = [optimizer.lr, *(keys["lr"] for keys in (optimizer.layers or {}).values() if "lr" in keys)]
    if schedule.min_lr > min(rates):
        raise UserError(f"schedule.min_lr={schedule.min_lr}: must be at most the learning rate {min(rates):g}")
    epochs, warmup = method.schedule_epochs(settings), length(schedule.warmup)
    if warmup.unit == "epoch" and warmup.value >= epochs:
        raise UserError(f"schedule.warmup={settings.schedule.warmup}: must be less than the run's {epochs} epochs")
    probe_schedule(optimizer, schedule, epochs)


def _check_trainer(settings: Settings, method: Method) -> None:
    """Check keys of the trainer that not every method or data set allows."""
    trainer = settings.trainer
    if trainer.clip_norm and getattr(method, "grown_state", "zero") == "keep":
        raise UserError(
            f"trainer.clip_norm={trainer.clip_norm}: needs method.grown_state=zero; with keep, the gradients of "
            "removed weights are kept as well"
        )
    if trainer.ema and not method.averages:
        raise UserError(f"trainer.ema={trainer.ema}: must be null with method={method.name}")
    if trainer.swa is not None and not method.averages:
        raise UserError(f"trainer.swa={trainer.swa}: must be null with method={method.name}")
    chosen = "early_stopping" if trainer.early_stopping else "keep_best"
    if trainer.early_stopping or trainer.keep_best:
        key = f"trainer.{chosen}={str(getattr(trainer, chosen)).lower()}"
        if not settings.dataset.validation:
            raise UserError(f"{key}: needs a validation split, dataset.validation above 0")
        if not method.keeps_sparsity():
            raise UserError(
                f"{key}: must not be set with method={method.name}, whose masks are final in the last epoch only"
            )
    if "top5" in trainer.metrics and settings.dataset.num_classes < 6:
        raise UserError(f"trainer.metrics={trainer.metrics}: top5 needs more than five classes")


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
    if not is_elementwise(probe(architecture(spec_of(settings)).module, settings.optimizer)):
        raise UserError(
            f"trainer.execution=sparse: must be auto, masked or compiled with optimizer={settings.optimizer.name}, "
            "which is not known to update each weight by itself"
        )
    if error := unsupported_operation(spec_of(settings)):
        raise UserError(f"trainer.execution=sparse: {error} is not covered; must be auto, masked or compiled")


def _sparse_execution_pays(settings: Settings, method: Method, source: Source) -> bool:
    """Return whether sparse execution covers the run and is predicted to be worth while."""
    if isinstance(source, DenseSource) or not method.sparse_by_default:
        return False
    positions = positions_of(settings)
    operations = [layer.size * positions.get(layer.name, 0) for layer in source.layers]
    if predicted_speedup(zip(operations, source.densities, strict=True)) < WORTHWHILE_SPEEDUP:
        return False
    sparse = settings.trainer.model_copy(update={"execution": "sparse"})
    try:
        _check_execution(settings.model_copy(update={"trainer": sparse}), method)
    except UserError:
        return False
    return True


def _read_files(settings: Settings) -> InputFiles:
    """Read the network of `model.init_from` and the densities of `sparsity.file`."""
    network = file = network_hash = file_hash = None
    init_from, sparsity = settings.model.init_from, settings.sparsity
    if init_from is not None:
        network, network_hash = read_weights(Path(init_from), f"model.init_from={init_from}")
        network = network_tensors(network) if settings.model.init_mask == "own" else network
    if sparsity.name == "file":
        file = density_file.read(Path(str(sparsity.file)))
        if sparsity.keep_mask:
            permutes = sparsity.control == "permute"  # the weights of the file count as well
            file_hash = ticket_network(settings)[1] if permutes else digest(file.masks())
        else:
            file_hash = file.hash
    is_ticket = bool(network and network_masks(network))
    return InputFiles(network, file, FileHashes(network_hash, is_ticket, file_hash))


def _fitting(settings: Settings, network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `model.init_from` that the network takes.

    Raises:
        UserError: others are in the way, unless `model.init_mismatch=fresh` leaves them out; or masks are.
    """
    model, where = settings.model, f"model.init_from={settings.model.init_from}"
    found, fresh = fitting(state, network.state_dict(), where, model.name, model.init_mismatch == "fresh")
    if fresh:
        if lost := sorted(network_masks(state).keys() - network_masks(found).keys()):
            raise UserError(f"{where}: its mask of {lost[0]} does not fit model={model.name}")
        log.info(f"{where}: leaves {', '.join(fresh)} as drawn")
    return found


def _folder(settings: Settings, option: SparsityOption, file_hashes: FileHashes, identity: str) -> Path:
    """Return <root>/<experiment or runs>/<model>-<dataset>-<sparsity><level>-<method>-<hash8>/s<seed>."""
    sparsity = settings.sparsity
    requested = f"{sparsity.level:g}" if sparsity.budget is None else f"{sparsity.budget}w"
    source = "ticket" if file_hashes.is_ticket else sparsity.name + (requested if option.takes_density else "")
    name = f"{settings.model.name}-{settings.dataset.name}-{source}-{settings.method['name']}-{identity[:8]}"
    return Path(settings.paths.root) / (settings.experiment or "runs") / name / f"s{settings.seed}"
