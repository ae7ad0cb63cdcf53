"""`ersparse density`: layer densities, or with --flow the flow over sparsities, as a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ersparse.cli.arguments import CommandParser, check_folder, out_as_option
from ersparse.cli.overrides import check_override, quoted_path
from ersparse.config.groups import build
from ersparse.config.options import CONF, search_path, use_config_folders, values_of
from ersparse.config.schema import Settings
from ersparse.data.load import load_arrays
from ersparse.errors import UserError
from ersparse.report.analysis.flow import count_flow
from ersparse.report.figures.density import plot_densities
from ersparse.report.figures.flow import plot_flow
from ersparse.report.tables.console import density_table, flow_table
from ersparse.runs.path_errors import path_errors
from ersparse.runs.plan import Plan
from ersparse.runs.planner import make_plan
from ersparse.runs.run import resolve_source
from ersparse.sweep.grids import swept_values
from ersparse.sweep.override_syntax import with_free_key

LEVELS = "0.5,0.8,0.9,0.95,0.98,0.99,0.995,0.999"
SUFFIXES = (".png", ".svg", ".pdf")


def main(arguments: Sequence[str]) -> int:
    """Print the table and write the figure.

    Raises:
        UserError: the command line is wrong, or the figure cannot be written.
    """
    parser = CommandParser(
        "ersparse density", description="Layer densities, or flow over sparsities.", allow_abbrev=False
    )
    parser.add_argument("--flow", action="store_true", help="flow over sparsities, with and without repair")
    parser.add_argument("--out", type=Path, default=Path("densities.png"), metavar="FILE", help="also written out=FILE")
    parser.add_argument("--config-dir", metavar="FOLDER", help="a folder with options of your own")
    parser.add_argument("overrides", nargs="*", help="group=option or key=value; sparsity takes several options")
    asked, unknown = parser.parse_known_intermixed_args(out_as_option(arguments))
    if asked.config_dir is not None:
        check_folder(Path(asked.config_dir))
    use_config_folders(["--config-dir", asked.config_dir] if asked.config_dir else [])
    overrides = _values_by_key([*unknown, *asked.overrides])
    _check_out(asked.out)
    try:
        (_flow if asked.flow else _densities)(overrides, asked.out)
    except HydraException:  # some of them are OSErrors
        raise
    except OSError as error:
        raise UserError(f"out={asked.out}: cannot be written ({error.strerror})") from None
    print(asked.out)
    return 0


def _values_by_key(words: Sequence[str]) -> dict[str, str]:
    """Return key -> value as written; the last one counts if a key is given twice."""
    for word in words:
        if "=" not in word or word.startswith("-"):
            raise UserError(f"{word or repr(word)}: must be group=option or key=value, or --flow, or out=FILE")
        check_override(word)
    return dict(quoted_path(word).split("=", 1) for word in words)


def _check_out(out: Path) -> None:
    if not out.absolute().parent.is_dir():
        raise UserError(f"out={out}: there is no folder {out.absolute().parent}")
    if out.suffix not in SUFFIXES:
        raise UserError(f"out={out}: must end in .png, .svg or .pdf")


def _swept(key: str, value: str) -> list[str]:
    """Return the values of a Hydra sweep, such as "erk,balanced"; a plain value is returned alone.

    Raises:
        UserError: the sweep cannot be enumerated.
    """
    override = OverridesParser.create().parse_overrides([f"{key}={value}"])[0]
    return swept_values(override) if override.is_sweep_override() else [value]


def _densities(overrides: dict[str, str], out: Path) -> None:
    """Print and plot the layer densities of each option."""
    options = _swept("sparsity", overrides.pop("sparsity", "balanced"))
    plans = {option: _plan({**overrides, "sparsity": option}) for option in options}
    first = plans[options[0]]
    layers, settings = first.layers, first.settings
    densities = {name: plan.source.densities for name, plan in plans.items()}
    for line in density_table(layers, densities, [plan.expected for plan in plans.values()]):
        print(line)
    sparsity = settings.sparsity.level if settings.sparsity.budget is None else 1 - first.nominal
    title = f"{settings.model.name}, {settings.dataset.num_classes} classes, sparsity {sparsity:g}"
    plot_densities(densities, title, out)


def _flow(overrides: dict[str, str], out: Path) -> None:
    """Print and plot empty channels and effective density of each option over sparsities, with and without repair."""
    options = _swept("sparsity", overrides.pop("sparsity", "balanced"))
    if "sparsity.budget" in overrides:
        raise UserError(
            f"sparsity.budget={overrides['sparsity.budget']}: must not be set with --flow, which takes sparsity.level"
        )
    if "dense" in options:
        raise UserError("sparsity=dense: must be a sparse option with --flow")
    levels = _swept("sparsity.level", overrides.pop("sparsity.level", LEVELS))
    repair = overrides.pop("sparsity.flow", "move")
    plans = {
        (option, flow): [
            _plan({**overrides, "sparsity": option, "sparsity.level": level, "sparsity.flow": flow}) for level in levels
        ]
        for option in options
        for flow in ("none", repair)
    }
    drawn = {option: [count_flow(plan) for plan in plans[option, "none"]] for option in options}
    repaired = {option: [count_flow(plan) for plan in plans[option, repair]] for option in options}
    for line in flow_table(drawn, repaired, repair):
        print(line)
    settings = plans[options[0], repair][0].settings
    title = f"{settings.model.name}, {settings.dataset.num_classes} classes, seed {settings.seed}"
    plot_flow(drawn, repaired, repair, title, out)


def _plan(overrides: Mapping[str, str]) -> Plan:
    """Compose the settings and return the plan of the run, with the layer densities computed."""
    for key, value in overrides.items():
        if OverridesParser.create().parse_overrides([f"{key}={value}"])[0].is_sweep_override():
            raise UserError(
                f"{key}={value}: must be a single value; sparsity takes several, as does sparsity.level with --flow"
            )
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [with_free_key(f"{key}={value}") for key, value in overrides.items()]
        config = hydra.compose("config", [*search_path(), *words])
    values = values_of(config)
    with path_errors(values):
        settings = build(Settings, values)
        return resolve_source(make_plan(settings), lambda: load_arrays(settings.dataset))
