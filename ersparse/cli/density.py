"""`ersparse density`: layer densities, or flow over sparsities, as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException

from ersparse.config.groups import build
from ersparse.config.options import CONF, values_of
from ersparse.config.schema import Settings
from ersparse.data.load import load_arrays
from ersparse.errors import UserError
from ersparse.report.figures import flow
from ersparse.report.figures.density import plot_densities
from ersparse.runs.plan import Plan
from ersparse.runs.planner import make_plan
from ersparse.runs.run import resolve_source

LEVELS = "0.5,0.8,0.9,0.95,0.98,0.99,0.995,0.999"


def main(arguments: Sequence[str]) -> int:
    """
    Raises:
        UserError: a word is none, or the picture cannot be written.
    """
    pairs = [word for word in arguments if word != "--flow"]
    if odd := [word for word in pairs if "=" not in word or word.startswith("-")]:
        raise UserError(f"{odd[0]}: must be group=option or key=value, or --flow")
    words = dict(word.split("=", 1) for word in pairs)
    options, out = words.pop("sparsity", "balanced").split(","), Path(words.pop("out", "densities.png"))
    if not out.absolute().parent.is_dir():
        raise UserError(f"out={out}: there is no folder {out.absolute().parent}")
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"out={out}: must end in .png, .svg or .pdf")
    try:
        (_flow if "--flow" in arguments else _densities)(options, words, out)
    except HydraException:  # some of them are OSErrors
        raise
    except OSError as error:
        raise UserError(f"out={out}: cannot be written ({error.strerror})") from None
    print(out)
    return 0


def _densities(options: list[str], words: dict[str, str], out: Path) -> None:
    """The layer densities of each option."""
    plans = [_planned({**words, "sparsity": option}) for option in options]
    layers, settings = plans[0].layers, plans[0].settings
    found = {name: planned.source.densities for name, planned in zip(options, plans, strict=True)}
    print(f"{'layer':36}{'size':>11}" + "".join(f"{name:>12}" for name in found))
    for number, layer in enumerate(layers):
        print(f"{layer.name:36}{layer.size:>11,}" + "".join(f"{values[number]:>12.5g}" for values in found.values()))
    print(f"{'expected':36}{'':>11}" + "".join(f"{planned.expected:>12.5g}" for planned in plans))
    sparsity = settings.sparsity.level if settings.sparsity.budget is None else 1 - plans[0].nominal
    title = f"{settings.model.name}, {settings.dataset.num_classes} classes, sparsity {sparsity:g}"
    plot_densities(layers, found, title, out)


def _flow(options: list[str], words: dict[str, str], out: Path) -> None:
    """Channels without an edge and effective density of each option, over sparsities, with and without repair."""
    if "sparsity.budget" in words:
        raise UserError(f"sparsity.budget={words['sparsity.budget']}: must not be set with --flow, which has levels")
    if "dense" in options:
        raise UserError("sparsity=dense: must be another one with --flow, nothing is drawn")
    levels, repair = words.pop("sparsity.level", LEVELS).split(","), words.pop("sparsity.flow", "move")
    plans = {
        (option, how): [
            _planned({**words, "sparsity": option, "sparsity.level": level, "sparsity.flow": how}) for level in levels
        ]
        for option in options
        for how in ("none", repair)
    }
    drawn = {option: [flow.measure(planned) for planned in plans[option, "none"]] for option in options}
    repaired = {option: [flow.measure(planned) for planned in plans[option, repair]] for option in options}
    settings = plans[options[0], repair][0].settings
    print(flow.table(drawn, repaired, repair))
    title = f"{settings.model.name}, {settings.dataset.num_classes} classes, seed {settings.seed}"
    flow.plot(drawn, repaired, repair, title, out)


def _planned(words: Mapping[str, str]) -> Plan:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", [f"{key}={value}" for key, value in words.items()])
    settings = build(Settings, values_of(config))
    return resolve_source(make_plan(settings), lambda: load_arrays(settings.dataset))
