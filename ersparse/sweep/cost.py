"""What runs cost: epochs, images, floating-point operations; hours, once a run of that kind has been timed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from ersparse.config.schema import Settings
from ersparse.locate import locate
from ersparse.sparse.layers import prunable_modules
from ersparse.sweep.job import Job

Kind = tuple[Any, ...]


@dataclass(frozen=True)
class Cost:
    """Of what is left of one run or of several.

    Attributes:
        epochs: of training.
        images: that training passes through the network; None where the data set does not say how many it has.
        dense: floating-point operations of training and evaluation as if every weight were kept.
        sparse: the same, each layer's scaled by the density asked for.
        seconds: of computing, on the devices of a run; None where no run of that kind has been timed.
    """

    epochs: int = 0
    images: int | None = 0
    dense: float | None = 0.0
    sparse: float | None = 0.0
    seconds: float | None = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.epochs + other.epochs,
            _sum(self.images, other.images),
            _sum(self.dense, other.dense),
            _sum(self.sparse, other.sparse),
            _sum(self.seconds, other.seconds),
        )


Number = TypeVar("Number", int, float)


def _sum(one: Number | None, other: Number | None) -> Number | None:
    return None if one is None or other is None else one + other


def cost_of(job: Job, epochs_done: int, timed: Mapping[Kind, float]) -> Cost:
    """What `job` will cost from where it stands. `timed`: seconds for an epoch, by kind."""
    settings, epochs = job.settings, job.epochs - epochs_done
    if not epochs or settings is None:
        return Cost()
    config = settings.model_dump(by_alias=True)
    config["trainer"]["execution"] = job.execution
    each = timed.get(kind_of(config))
    seconds = None if each is None else each * epochs
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
    """By layer, what one image takes: forward, and forward and backward. A multiplication and an addition are two.

    PyTorch's own counter counts; it leaves out what is no matrix product (BatchNorm, activations).
    """
    model, data = settings.model, settings.dataset
    return _operations(model.target, data.num_classes, data.channels, model.width, data.image_size)


@cache
def _operations(target: str, classes: int, channels: int, width: float, side: int) -> dict[str, tuple[float, float]]:
    with torch.device("meta"):
        network = locate(target)(classes, channels=channels, width=width)
        images = torch.empty(2, channels, side, side)  # BatchNorm wants more than one
        with FlopCounterMode(display=False, depth=None) as forward:  # type: ignore[arg-type]
            network(images)
        with FlopCounterMode(display=False, depth=None) as both:  # type: ignore[arg-type]
            network(images).sum().backward()

    def of(counter: FlopCounterMode, layer: str) -> float:
        module = f"{type(network).__name__}.{layer.removesuffix('.weight')}"
        return sum(counter.get_flop_counts()[module].values()) / len(images)

    return {layer: (of(forward, layer), of(both, layer)) for layer in prunable_modules(network)}


def kind_of(config: Mapping[str, Any]) -> Kind:
    """What decides how long an epoch takes; masks do not where every weight is multiplied."""
    model, data, trainer, sparsity = config["model"], config["dataset"], config["trainer"], config["sparsity"]
    kept = (sparsity["name"], sparsity["level"], sparsity["budget"]) if trainer["execution"] == "sparse" else None
    return (
        model["name"], model["width"], data["name"], data["image_size"], data["batch_size"], data["validation"],
        config["method"]["name"], trainer["devices"], trainer["num_nodes"], kept,
    )  # fmt: skip


def timings(records: Iterable[Mapping[str, Any]]) -> dict[Kind, float]:
    """Seconds for an epoch, evaluation included, by kind, of the runs that are done; of several, the mean."""
    found: dict[Kind, list[float]] = {}
    for record in records:
        timing = record.get("timing") or {}
        if record.get("state") == "done" and timing.get("epochs") and timing.get("fit_s"):
            found.setdefault(kind_of(record["config"]), []).append(timing["fit_s"] / timing["epochs"])
    return {kind: sum(each) / len(each) for kind, each in found.items()}


def in_words(cost: Cost, slots: int) -> list[str]:
    """A line for each thing that is known."""
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
        lines.append(
            f"hours       {cost.seconds / 3600 / slots:.2g} on {slots} slots, {cost.seconds / 3600:.2g} in all"
        )
    return lines


def total(costs: Sequence[Cost]) -> Cost:
    """The costs added up."""
    return sum(costs, Cost())
