"""Checks of a planned run against this machine and the images, before anything is created."""

from __future__ import annotations

from ersparse.config.schema import Settings
from ersparse.config.trainer_settings import TrainerSettings
from ersparse.config.warmup import length
from ersparse.data.batches import EVALUATION_BATCH_SIZE
from ersparse.data.epoch_plan import batches_in, smallest_batch
from ersparse.data.streamed import ImageData
from ersparse.distributed.other_launchers import copies_of_this_process
from ersparse.distributed.rendezvous import Rendezvous
from ersparse.errors import UserError
from ersparse.lightning.auto_settings import resolve
from ersparse.runs.plan import Plan
from ersparse.sources.unresolved import UnresolvedSource
from ersparse.sparse.budget import budget_excess


def check_devices(plan: Plan) -> None:
    """Check what the run trains on, without the number formats of a GPU: to ask for them would occupy its memory.

    Raises:
        UserError: this machine does not have the devices.
    """
    if plan.method.trains:
        trainer = plan.settings.trainer
        precision = "32-true" if trainer.precision == "auto" else trainer.precision
        execution = "masked" if trainer.execution == "sparse" else trainer.execution  # checked later, with its warning
        resolve(trainer.model_copy(update={"precision": precision, "execution": execution}))


def check_budget(plan: Plan) -> None:
    """Check with `sparsity.strict=true`, by drawing the masks, that flow repair meets the budget.

    Densities that have not been computed yet are checked once they are.

    Raises:
        UserError: the masks keep more weights than the budget.
    """
    source = plan.source
    if not plan.settings.sparsity.strict or isinstance(source, UnresolvedSource):
        return
    masks, _ = source.repair(source.draw())
    if excess := budget_excess(source, masks):
        raise UserError(f"sparsity.strict=true: {excess}")


def check_ranks(trainer: TrainerSettings, rendezvous: Rendezvous | None) -> None:
    """Check that the ranks that a cluster started, if any, are those asked for.

    Raises:
        UserError: there are more or fewer, or another launcher has started this command several times.
    """
    if copies := copies_of_this_process():
        raise UserError(
            f"{_devices(trainer)}: {copies} has started this command several times; must be started once, since a run "
            "starts its own ranks, trainer.devices says how many"
        )
    if rendezvous and rendezvous.size != trainer.ranks:
        raise UserError(f"{_devices(trainer)}: the cluster started {rendezvous.size} tasks; must be as many")
    if trainer.num_nodes > 1 and rendezvous is None:
        raise UserError(f"trainer.num_nodes={trainer.num_nodes}: must be 1 without hydra/launcher=slurm")


def check_batches(settings: Settings, trainer: TrainerSettings, arrays: ImageData) -> None:
    """Check that each rank gets two images of every training batch, for normalisation, and one of every other batch.

    Raises:
        UserError: there are more ranks than that.
    """
    held_out = round(settings.dataset.validation * len(arrays.y_train))
    least = smallest_batch(len(arrays.y_train) - held_out, settings.dataset.batch_size) // 2
    for count in (len(arrays.y_test), held_out):
        least = min(least, smallest_batch(count, EVALUATION_BATCH_SIZE)) if count else least
    if trainer.ranks > max(1, least):
        raise UserError(
            f"{_devices(trainer)}: must be at most {max(1, least)} with dataset.batch_size="
            f"{settings.dataset.batch_size} and so many images, or a rank would get none of the smallest batch"
        )


def check_warmup(plan: Plan, arrays: ImageData) -> None:
    """Check that a warm-up in optimizer steps is shorter than the run.

    Raises:
        UserError: it is not.
    """
    settings = plan.settings
    warmup = length(settings.schedule_at_scale().warmup)
    trained_on = len(arrays.y_train) - round(settings.dataset.validation * len(arrays.y_train))
    batches = batches_in(trained_on, settings.dataset.batch_size)
    steps = plan.method.schedule_epochs(settings) * -(-batches // settings.trainer.accumulate)
    if warmup.unit == "step" and warmup.value >= steps:
        raise UserError(f"schedule.warmup={settings.schedule.warmup}: must be less than the run's {steps} steps")


def _devices(trainer: TrainerSettings) -> str:
    nodes = f" times trainer.num_nodes={trainer.num_nodes}" if trainer.num_nodes > 1 else ""
    return f"trainer.devices={trainer.devices}{nodes}"
