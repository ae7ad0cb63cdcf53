"""Layer densities chosen by a pruner at initialisation (ER-SNIP, ER-GraSP, ER-SynFlow, ER-magnitude).

They are computed once and kept as a file in `paths.cache`, which all runs that ask for the same densities share. The
file's name is a hash over what decides them: network, number of weights, settings of the score, initialisation, and,
for scores that use images, the data and their seed; never the seed of masks. The folder `shipped` holds files that come
with the program, so that Tables 5 and 6 need no data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ersparse.config.groups import identity_fields
from ersparse.config.schema import Settings
from ersparse.config.sparsity_option import SparsityOption
from ersparse.data.scoring_batches import ScoringExamples
from ersparse.data.streamed import ImageData
from ersparse.errors import UserError
from ersparse.locate import own_code
from ersparse.sources.er import selection_of, source_from_densities
from ersparse.sources.exact_products import exact_products
from ersparse.sources.unresolved import UnresolvedSource
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import Masks
from ersparse.sparse.reachability import ChannelOp, cut
from ersparse.sparse.scores import ScoreError
from ersparse.sparse.selection import spent
from ersparse.sparse.source import Source
from ersparse.sparse.transfer import to_host
from ersparse.storage import density_file
from ersparse.storage.density_file import DensityFile
from ersparse.storage.locks import exclusive
from ersparse.storage.provenance import machine

SHIPPED = Path(__file__).with_name("shipped")
BUILT_IN = "ersparse.sparse.pruners"  # module of the pruners that score on whatever device the network lies
FORMAT = 1  # of what decides the name of a file
UNUSED_BY_SCORES = (
    "batch_size", "augment", "crop_padding", "padding_mode", "flip", "transforms", "crop_scale", "mixup", "cutmix",
)  # fmt: skip

log = logging.getLogger("ersparse")


@dataclass(frozen=True)
class PrunerSource(UnresolvedSource):
    """A source whose densities follow from the scores of a pruner.

    Attributes:
        option: the pruner.
        recipe: what decides the densities, as plain values.
        own: densities by layer name of the layers that have one of their own, which are not scored.
    """

    option: SparsityOption
    recipe: dict[str, Any]
    own: Mapping[str, float]

    @property
    def path(self) -> Path:
        """The file in `paths.cache` that has, or will have, the densities."""
        key = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:16]
        return Path(self.settings.paths.cache).expanduser() / "densities" / f"{key}.json"

    def existing_file(self) -> Path | None:
        """Return the file that has the densities: in the cache, or, unless the mask is needed, among those shipped."""
        shipped = [] if self.settings.sparsity.keep_mask else SHIPPED.glob(f"*-{self.path.name}")
        return next((path for path in [self.path, *shipped] if path.exists()), None)

    def resolved(self) -> Source | None:
        file = self.existing_file()
        return self._source(density_file.read(file)) if file else None

    def compute(
        self,
        network: Callable[[], nn.Module],
        graph: list[ChannelOp] | None,
        images: Callable[[], ImageData],
        device: torch.device = torch.device("cpu"),
    ) -> Source:
        """Return the source, with densities computed if they are missing.

        Of several processes that need the same densities, one computes them and the others wait.

        Args:
            network: returns the network that is scored.
            graph: its channel graph, by which layer collapse is detected; None if it cannot be traced.
            images: returns the data set; called only if the score uses images.
            device: where the network is scored, unless the pruner is a function of the user's, which may know nothing
                of devices and is called on the CPU.

        Raises:
            UserError: no weights can be chosen by the scores, the cache cannot be written, or layer collapse.
        """
        file = self.existing_file()
        if file is None:
            file = self.path
            try:
                with exclusive(file.with_suffix(".lock"), product=file):
                    if not file.exists():
                        self._write(network(), graph, images, device)
            except OSError as error:
                raise UserError(f"paths.cache: {file.parent} cannot be written ({error.strerror or error})") from None
        found = density_file.read(file)
        self._check_collapse(found)
        return self._source(found)

    def _source(self, found: DensityFile) -> Source:
        return source_from_densities(self.settings, self.layers, found, self.nominal, self.own)

    def _write(
        self,
        network: nn.Module,
        graph: list[ChannelOp] | None,
        images: Callable[[], ImageData],
        device: torch.device,
    ) -> None:
        started, weights = time.perf_counter(), self.recipe["weights"]
        name, score = self.option.settings.name, self.option.settings.resolve()
        device = device if getattr(score, "__module__", None) == BUILT_IN else torch.device("cpu")
        log.info(f"{name} scores {self.settings.model.name}, to keep {weights:,} weights: {self.path}")
        arguments = self._run_arguments(images, device) | self.recipe["settings"] | {"invert": self.recipe["invert"]}
        with own_code(f"sparsity={name}", self.option.settings.target), exact_products():
            try:
                masks: Masks = score(network.to(device), weights, **arguments)
            except ScoreError as error:
                hint = " (sparsity.score_dtype=float64)" if "float64" in str(error) else ""
                raise UserError(f"sparsity={name}: {error}{hint}") from None
        self._check_masks(masks)
        masks = to_host(masks)
        collapsed = cut(masks, self.layers, graph) if graph else []
        seconds = round(time.perf_counter() - started, 3)
        where = {} if device.type == "cpu" else {"machine": machine(gpu=True)}
        density_file.write(self.path, masks, self.recipe, cut=collapsed, seconds=seconds, **where)

    def _check_masks(self, masks: Any) -> None:
        """Check that a pruner has returned a boolean mask for each layer, which one of the user's may not."""
        where = f"sparsity={self.option.settings.name}"
        if not isinstance(masks, Mapping):
            raise UserError(f"{where}: returns {type(masks).__name__}, must return masks by layer name")
        for layer in self.layers:
            if layer.name in self.own:  # not scored
                continue
            mask = masks.get(layer.name)
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != layer.shape:
                found = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise UserError(f"{where}: returns {found} for {layer.name}, must be torch.bool {list(layer.shape)}")

    def _run_arguments(self, images: Callable[[], ImageData], device: torch.device) -> dict[str, Any]:
        """Return the arguments of the pruner that the run supplies, beside network and number of weights."""
        settings, takes = self.settings, self.option.run_arguments
        arguments: dict[str, Any] = {}
        if "shape" in takes:
            arguments["shape"] = self.recipe["shape"]
        if "among" in self.recipe:
            arguments["among"] = self.recipe["among"]
        if "seed" in takes:
            arguments["seed"] = settings.seed_of("init")
        if "examples" in takes:
            arguments["examples"] = ScoringExamples(images(), settings.dataset, settings.seed_of("data"), device)
        return arguments

    def _check_collapse(self, found: DensityFile) -> None:
        if not (where := found.content["cut"]):
            return
        line = (
            f"sparsity={self.settings.sparsity.name}: layer collapse: no path from input to output remains "
            f"(cut at {', '.join(where)})"
        )
        if not self.settings.sparsity.allow_collapse:
            raise UserError(f"{line}; sparsity.allow_collapse=true continues all the same")
        log.warning(line)


def pruner_source(
    settings: Settings,
    option: SparsityOption,
    layers: list[Layer],
    nominal: float,
    weights_hash: str | None,
    own: Mapping[str, float],
) -> PrunerSource:
    """Return the source of a pruner, whose densities may have yet to be computed.

    Args:
        settings: the settings of the run.
        option: the pruner.
        layers: the prunable layers of the network.
        nominal: the global density asked for.
        weights_hash: the hash of the weights that are scored, if `model.init_from` gives them.
        own: densities by layer name of the layers that have one of their own.

    Raises:
        UserError: the pruner cannot leave out layers, or their densities exceed the budget.
    """
    model, data = settings.model, settings.dataset
    fields = identity_fields(option.settings) | dict(option.defaults)
    recipe: dict[str, Any] = {
        "format": FORMAT,
        "pruner": option.settings.name,
        "settings": {key: fields[key] for key in option.keys if key in fields},
        "invert": option.settings.control == "invert",
        "weights": round(nominal * sum(layer.size for layer in layers) - spent(layers, own)),
        "model": {"name": model.name, "width": model.width, "classes": data.num_classes, "channels": data.channels},
        "init": weights_hash or settings.seed_of("init"),
    }
    if model_keys := model.own_keys():
        recipe["model"] |= model_keys
    if model.args:
        recipe["model"]["args"] = model.args
    if not model.target.startswith("ersparse."):  # whose name stands for its code
        recipe["model"] |= {"target": model.target, "layers": {layer.name: layer.shape for layer in layers}}
    if "shape" in option.run_arguments:
        recipe["shape"] = list(data.shape)
    if "examples" in option.run_arguments:
        recipe["data"] = {key: value for key, value in identity_fields(data).items() if key not in UNUSED_BY_SCORES}
        recipe["data_seed"] = settings.seed_of("data")
        if not data.target.startswith("ersparse."):
            recipe["data"]["target"] = data.target
    if own or selection_of(option.settings).leaves_out:
        recipe["among"] = _scored(option, layers, own, recipe["weights"])
    return PrunerSource(layers, nominal, settings, option, recipe, own)


def _scored(option: SparsityOption, layers: list[Layer], own: Mapping[str, float], count: int) -> list[str]:
    """Return the names of the layers among which a pruner keeps `count` weights."""
    scored = [layer for layer in layers if layer.name not in own]
    where, total = f"sparsity={option.settings.name}", sum(layer.size for layer in scored)
    if "among" not in option.run_arguments:
        raise UserError(f"{where}: its function has no argument `among`, so it cannot leave out layers")
    if not 0 < count <= total:
        raise UserError(
            f"{where}: {count:,} weights are left for layers without a density of their own, must lie in [1, {total}]"
        )
    return [layer.name for layer in scored]
