"""Densities that pruners choose: computed once, kept as a file in `paths.cache`, shared by all who ask for the same.

The file's name is a hash over what decides them: network, number of weights, settings of the score, initialisation,
and for scores that look at images the data and their seed; never the seed of masks. Some files come with the program,
in conf/densities, so that Tables 5 and 6 need no data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from torch import Tensor

from ersparse.config.schema import Settings
from ersparse.data.arrays import Arrays
from ersparse.data.scoring_batches import TrainingExamples
from ersparse.errors import UserError
from ersparse.runs.identity import arguments_of, identity_fields
from ersparse.sparse.flow_repair import Counts, FlowError
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks
from ersparse.sparse.reachability import cut
from ersparse.sparse.scores import ScoreError
from ersparse.sparse.source import ERSource, Source, TicketSource
from ersparse.storage import density_file
from ersparse.storage.density_file import DensityFile

if TYPE_CHECKING:
    from ersparse.runs.plan import Plan

SHIPPED = Path(__file__).with_name("shipped")
FORMAT = 1  # of what decides the name of a file

log = logging.getLogger("ersparse")


@dataclass(frozen=True)
class UnresolvedSource:
    """A source whose densities are not known yet. Until they are each layer's is taken to be the global one, which is
    good enough for costs. Nothing can be drawn.
    """

    layers: list[Layer]
    nominal: float
    settings: Settings

    @property
    def densities(self) -> list[float]:
        return [self.nominal] * len(self.layers)

    @property
    def flow(self) -> str:
        return "none" if self.settings.sparsity.keep_mask else self.settings.sparsity.flow

    def draw(self) -> Masks:
        raise AssertionError("its densities are not known yet")

    def repair(self, masks: Mapping[str, Tensor]) -> tuple[Masks, dict[str, Counts]]:
        raise AssertionError("its densities are not known yet")


@dataclass(frozen=True)
class PrunerSource(UnresolvedSource):
    """A source whose densities are known once its pruner has looked at the network.

    Attributes:
        made: what decides the densities.
    """

    made: dict[str, Any]

    @property
    def path(self) -> Path:
        """Where they are kept."""
        key = hashlib.sha256(json.dumps(self.made, sort_keys=True).encode()).hexdigest()[:16]
        return Path(self.settings.paths.cache).expanduser() / "densities" / f"{key}.json"

    def file(self) -> Path | None:
        """Where they are: kept, or, if the mask itself is not asked for, among those that come with the program."""
        shipped = [] if self.settings.sparsity.keep_mask else SHIPPED.glob(f"*-{self.path.name}")
        return next((path for path in [self.path, *shipped] if path.exists()), None)

    def announcement(self) -> str:
        """What comes before."""
        return f"densities are computed first, and kept in {self.path}"

    def known(self) -> Source | None:
        """The source, if its densities are there."""
        file = self.file()
        return self._source(density_file.read(file)) if file else None

    def make(self, plan: Plan, images: Callable[[], Arrays]) -> Source:
        """The source, its densities computed if they are not there: of several processes that need the same one
        computes, the others wait.

        Args:
            plan: of the run.
            images: of the data set, loaded where a score looks at them.

        Raises:
            UserError: nothing can be chosen by the scores, or nothing flows through what they keep.
        """
        if (file := self.file()) is None:
            file = self.path
            with exclusive(file):
                if not file.exists():
                    _compute(plan, self, images)
        found = density_file.read(file)
        _whole(plan.settings, found)
        return self._source(found)

    def _source(self, found: DensityFile) -> Source:
        return source_from(self.settings, self.layers, found, self.nominal)


def pruner_source(settings: Settings, layers: list[Layer], nominal: float, init_from: str | None) -> PrunerSource:
    """`init_from` is the hash of the weights that are scored, where a file gives them."""
    sparsity, model, data = settings.sparsity, settings.model, settings.dataset
    takes, fields = arguments_of(sparsity), identity_fields(sparsity)
    made: dict[str, Any] = {
        "format": FORMAT,
        "pruner": sparsity.name,
        "settings": {key: fields[key] for key in takes.keys if key in fields},
        "invert": sparsity.control == "invert",
        "weights": round(nominal * sum(layer.size for layer in layers)),
        "model": {"name": model.name, "width": model.width, "classes": data.num_classes, "channels": data.channels},
        "init": init_from or settings.seed_of("init"),
    }
    if "shape" in takes.given:
        made["shape"] = [data.channels, data.image_size, data.image_size]
    if "examples" in takes.given:
        unseen = ("batch_size", "augment", "crop_padding", "padding_mode", "flip")  # by a score
        made["data"] = {key: value for key, value in identity_fields(data).items() if key not in unseen}
        made["data_seed"] = settings.seed_of("data")
    return PrunerSource(layers, nominal, settings, made)


def source_from(settings: Settings, layers: list[Layer], found: DensityFile, nominal: float) -> Source:
    """The very masks of a file, or an ER network of its densities."""
    sparsity, seed = settings.sparsity, settings.seed_of("mask")
    if sparsity.keep_mask:
        return TicketSource(layers, found.masks(), seed, sparsity.control, nominal)
    return er_source(settings, layers, [found.by_layer[layer.name] for layer in layers], nominal)


def er_source(settings: Settings, layers: list[Layer], by_layer: list[float], nominal: float) -> ERSource:
    """
    Raises:
        UserError: the repair cannot meet a layer's density.
    """
    sparsity = settings.sparsity
    source = ERSource(layers, by_layer, nominal, settings.seed_of("mask"), sparsity.sampling, sparsity.flow)
    try:
        source.drawing_densities()
    except FlowError as error:
        raise UserError(f"sparsity.flow={sparsity.flow}: {error}") from None
    return source


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """The lock on what is about to be made; it ends with its process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            log.info(f"another process makes {path}; waiting for it")
            held = lock.acquire()
    except OSError as error:
        raise UserError(f"paths.cache: {path.parent} cannot be written ({error.strerror or error})") from None
    with held:
        yield


def _compute(plan: Plan, source: PrunerSource, images: Callable[[], Arrays]) -> None:
    s, began = plan.settings, time.perf_counter()
    takes = arguments_of(s.sparsity)
    given: dict[str, Any] = {}
    if "shape" in takes.given:
        given["shape"] = source.made["shape"]
    if "seed" in takes.given:
        given["seed"] = s.seed_of("init")
    if "examples" in takes.given:
        given["examples"] = TrainingExamples(images(), s.dataset, s.seed_of("data"))
    log.info(f"{s.sparsity.name} scores {s.model.name}, to keep {source.made['weights']:,} weights: {source.path}")
    try:
        masks: Masks = s.sparsity.resolve()(
            plan.initial(),
            source.made["weights"],
            **given,
            **source.made["settings"],
            invert=source.made["invert"],
        )
    except ScoreError as error:
        hint = " (sparsity.score_dtype=float64)" if "float64" in str(error) else ""
        raise UserError(f"sparsity={s.sparsity.name}: {error}{hint}") from None
    where = cut(masks, plan.layers, plan.steps) if plan.steps else []
    seconds = round(time.perf_counter() - began, 3)
    density_file.write(source.path, masks, source.made, cut=where, seconds=seconds)


def _whole(settings: Settings, found: DensityFile) -> None:
    """Layer collapse: no input reaches an output."""
    if not (where := found.content["cut"]):
        return
    line = f"sparsity={settings.sparsity.name}: nothing flows through what it keeps, which ends at {', '.join(where)}"
    if not settings.sparsity.allow_collapse:
        raise UserError(f"{line}; sparsity.allow_collapse=true goes on all the same")
    log.warning(line)
