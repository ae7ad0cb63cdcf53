"""Cost estimates of runs: epochs, images, FLOPs, and hours once a run of the same kind has been timed.

FLOPs are those of convolutions and linear layers, with a multiplication and an addition as two: BatchNorm and
activations are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ersparse.config.schema import Settings
from ersparse.runs.network import architecture, positions_of, spec_of
from ersparse.sweep.job import Job

TimingKey = tuple[Any, ...]
# keys of `dataset` that decide how fast images are read, with what they were before they existed
READING = {"transforms": "crop", "mixup": 0.0, "cutmix": 0.0, "in_memory": "auto", "workers": "auto"}


@dataclass(frozen=True)
class Cost:
    """Cost of what remains of one run, or of several.

    Attributes:
        epochs: number of training epochs.
        images: number of training images, counted once per epoch; None if a data set does not give its size.
        dense: FLOPs of training and evaluation as if every weight were kept; None likewise.
        sparse: the same with each layer's FLOPs scaled by its density; None likewise.
        seconds: compute time on the devices of each run; None if no run of that kind has been timed.
    """

    epochs: int = 0
    images: int | None = 0
    dense: float | None = 0.0
    sparse: float | None = 0.0
    seconds: float | None = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.epochs + other.epochs,
            _add(self.images, other.images),
            _add(self.dense, other.dense),
            _add(self.sparse, other.sparse),
            _add(self.seconds, other.seconds),
        )


Number = TypeVar("Number", int, float)


def _add(one: Number | None, other: Number | None) -> Number | None:
    return None if one is None or other is None else one + other


def total_cost(costs: Sequence[Cost]) -> Cost:
    return sum(costs, Cost())


def estimate_cost(job: Job, epochs_done: int, epoch_times: Mapping[TimingKey, float]) -> Cost:
    """Estimate the cost of the remaining epochs of a job.

    Args:
        job: the job.
        epochs_done: number of epochs that its run has finished.
        epoch_times: seconds per epoch of each kind of run (`seconds_per_epoch`).
    """
    settings, epochs = job.settings, job.epochs - epochs_done
    if not epochs or settings is None:
        return Cost()
    config = settings.model_dump(by_alias=True)
    config["trainer"] |= {"execution": job.execution, "accelerator": accelerator_of(settings, job.gpu)}
    found = matching_times(timing_key(config), epoch_times)
    seconds = max(found) * epochs if found else None
    if settings.dataset.images is None:
        return Cost(epochs, None, None, None, seconds)
    train, test = settings.dataset.images
    held_out = round(settings.dataset.validation * train)
    dense = sparse = 0.0
    for name, (forward, both) in operations(settings).items():
        layer = epochs * ((train - held_out) * both + (test + held_out) * forward)
        dense, sparse = dense + layer, sparse + layer * job.densities.get(name, 1.0)
    return Cost(epochs, epochs * (train - held_out), dense, sparse, seconds)


def operations(settings: Settings) -> dict[str, tuple[float, float]]:
    """Return the FLOPs of each dense layer for one image: of the forward pass, and of forward and backward pass.

    The gradients with respect to the weights and to the inputs each take as many FLOPs as the forward pass. The first
    layer has no gradient with respect to its inputs, which are the images.
    """
    uses, layers = positions_of(settings), architecture(spec_of(settings)).layers
    forward = {layer.name: 2.0 * layer.size * uses[layer.name] for layer in layers}
    return {name: (flops, flops * (3 if number else 2)) for number, (name, flops) in enumerate(forward.items())}


def accelerator_of(settings: Settings, gpu: bool) -> str:
    """Return "cpu" or "gpu" for a run; `gpu` is what `trainer.accelerator=auto` means where it trains."""
    accelerator = str(settings.trainer.accelerator)
    return ("gpu" if gpu else "cpu") if accelerator == "auto" else accelerator


def timing_key(config: Mapping[str, Any], machine: str = "") -> TimingKey:
    """Return what determines the time per epoch of a run with this configuration.

    Masks do not: masked execution multiplies every weight. With sparse execution the sparsity is part of the key.

    Args:
        config: the configuration; what is "auto" in it is unknown.
        machine: the entry "machine" of run.json, which ends with the name of the GPU; "" if it is unknown.
    """
    model, data, trainer, sparsity = config["model"], config["dataset"], config["trainer"], config["sparsity"]
    reading = tuple(json.dumps(data.get(key, default)) for key, default in READING.items())
    kept = (sparsity["name"], sparsity["level"], sparsity["budget"]) if trainer["execution"] == "sparse" else None
    gpu = machine.rpartition(", ")[2] if trainer["accelerator"] == "gpu" else ""
    return (
        model["name"], model["width"], data["name"], json.dumps(data["image_size"]), data["batch_size"],
        data["validation"], *reading,
        config["method"]["name"], trainer["devices"], trainer["num_nodes"], kept, trainer["accelerator"],
        trainer["precision"], trainer["execution"], gpu or "auto",
    )  # fmt: skip


def matching_times(key: TimingKey, epoch_times: Mapping[TimingKey, float]) -> list[float]:
    """Return the times per epoch of the kinds of runs that agree with `key` in all that is known of both."""
    return [
        seconds
        for known, seconds in epoch_times.items()
        if all(one == other or "auto" in (one, other) for one, other in zip(key, known, strict=True))
    ]


def seconds_per_epoch(records: Iterable[Mapping[str, Any]]) -> dict[TimingKey, float]:
    """Return, for each kind of run, the mean time per epoch of the finished runs, evaluation included.

    Args:
        records: contents of run.json files.
    """
    found: dict[TimingKey, list[float]] = {}
    for record in records:
        timing = record.get("timing") or {}
        if record.get("state") == "done" and timing.get("epochs") and timing.get("fit_s"):
            key = timing_key(record["config"], record.get("machine") or "")
            found.setdefault(key, []).append(timing["fit_s"] / timing["epochs"])
    return {key: sum(times) / len(times) for key, times in found.items()}


def format_cost(cost: Cost, slots: int) -> list[str]:
    """Return a cost in lines for the terminal.

    Args:
        cost: of all jobs of a sweep.
        slots: number of jobs at a time, among which the compute time is divided.
    """
    lines = [f"epochs      {cost.epochs:,}"]
    if not cost.epochs:
        return lines
    if cost.images is not None and cost.sparse is not None and cost.dense is not None:
        lines.append(f"images      {cost.images:,}")
        lines.append(f"operations  {cost.sparse:.3g}, by density ({cost.dense:.3g} as masked dense networks)")
    else:
        lines.append("operations  unknown: a data set does not give dataset.images")
    if cost.seconds is None:
        lines.append("hours       unknown until a run of each kind has been timed")
    else:
        hours = cost.seconds / 3600
        lines.append(f"hours       {hours / slots:.2g} on {slots} slots, {hours:.2g} in all")
    return lines
