"""From the command line to a run: Hydra composes, `ersparse.run` runs, errors become one line and a status.

Status 0: done. 1: failed. 2: bad input. 130: interrupted, and can be resumed. Imports no torch.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # read at import: Hydra then lets errors through, for us to explain

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ersparse.errors import RunFailed, UserError

if TYPE_CHECKING:
    from ersparse.runs.plan import Plan

HELP_HEAD = """\
ersparse: draw a sparse Erdős–Rényi network, repair its flow, train it, and leave a run folder that explains itself.

Examples
  python launch.py                                          digits, resnet20, balanced at 0.9, in about a minute
  python launch.py model=vgg16 dataset=cifar10 sparsity=erk sparsity.level=0.99 seed=1
  python launch.py method=draw model=vgg19 dataset=cifar100 sparsity=pyramidal sparsity.level=0.999
  python launch.py model=resnet18 sparsity.budget=100000 dry_run=true      says what would run, and creates nothing

Groups and their options (group=option)"""
HELP_FOOT = """
The same command again resumes: finished runs are skipped, interrupted ones go on. README.md explains the keys;
--hydra-help lists Hydra's own flags."""

COMMANDS = """\
ersparse run [group=option ...] [key=value ...]
    draw, train and record a sparse network: python launch.py from anywhere (--help for more)
ersparse density [group=option ...] [key=value ...] [sparsity=erk,balanced,...] [out=densities.png]
    layer densities of one or more options, printed and plotted
ersparse density --flow [sparsity.level=0.9,0.99,...] ...
    channels without an edge and kept weights on a path over sparsities, with and without repair
ersparse theory lemma|weak|conv|strong|lower [scale=smoke|short|full] [p=0.1,0.5] [delta=0.05] [epsilon=0.01] [seed=N]
    the paper's lemma and theorems, computed and measured, in a run folder"""
FLOW_LEVELS = "0.5,0.8,0.9,0.95,0.98,0.99,0.995,0.999"

HERE = Path(__file__).resolve().parent
CONF = HERE / "conf" if (HERE / "conf").is_dir() else HERE.parent / "conf"  # installed, or in a checkout


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _task(config: DictConfig) -> None:
    """Exits here where it can: Hydra announces every exception that passes through it."""
    try:
        values = _values(config)
        from ersparse import run

        run(values)
    except UserError as error:
        sys.exit(_refuse(str(error)))
    except RunFailed as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only end in a traceback
        sys.exit(130)


def launch() -> int:
    """Runs the command line in sys.argv, and returns the exit status."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text())
        return 0
    try:
        _task()
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(_explain(error))
    except KeyboardInterrupt:
        return 130
    return 0


def help_text() -> str:
    """Groups with their options, each with the first line of its file, then the keys of the default run."""
    lines = [HELP_HEAD]
    for group in sorted(path.name for path in CONF.iterdir() if path.is_dir() and options_of(path.name)):
        lines.append(f"  {group}")
        for option in options_of(group):
            text = (CONF / group / f"{option}.yaml").read_text().splitlines()
            comment = next((line[2:] for line in text if line.startswith("# ") and "@package" not in line), "")
            lines.append(f"    {option:14}{comment}")
    lines.append("\nKeys and their defaults (key=value)")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("config"), resolve=False)
    assert isinstance(config, dict)
    for key, value in sorted(config.items(), key=lambda item: isinstance(item[1], dict)):
        if not isinstance(value, dict):
            lines.append(f"  {key} ({_plain(value)})")
            continue
        pairs = [f"{name} ({_plain(item)})" for name, item in value.items() if name not in ("_target_", "name")]
        if pairs:
            lines += textwrap.wrap(f"{key}. {', '.join(pairs)}", 112, initial_indent="  ", subsequent_indent="      ")
    return "\n".join([*lines, HELP_FOOT])


def options_of(group: str) -> list[str]:
    """The options of a group of conf/, by file name."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.name.startswith("_"))


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def main() -> int:
    """The `ersparse` command: `ersparse run ...` is `python launch.py ...` from anywhere."""
    commands = {"run": launch, "density": density, "theory": theory}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(COMMANDS)
        return 0
    if name not in commands:
        return _refuse(f"ersparse {name}: no such command; must be one of {', '.join(commands)}")
    del sys.argv[1]
    return commands[name]()


def theory() -> int:
    """`ersparse theory weak scale=smoke ...`: a run of experiment=theory_weak."""
    from ersparse.theory.command import overrides

    if {"-h", "--help"} & set(sys.argv[1:]):
        print(COMMANDS)
        return 0
    words = overrides(sys.argv[1:])
    if isinstance(words, str):
        return _refuse(words)
    sys.argv[1:] = words
    return launch()


def density() -> int:
    """`ersparse density model=vgg19 sparsity=erk,balanced ...`: layer densities, or flow, as a table and a PNG."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(COMMANDS)
        return 0
    flow = "--flow" in sys.argv[1:]
    arguments = [word for word in sys.argv[1:] if word != "--flow"]
    if odd := [word for word in arguments if "=" not in word or word.startswith("-")]:
        return _refuse(f"{odd[0]}: must be group=option or key=value, or --flow")
    words = dict(word.split("=", 1) for word in arguments)
    options, out = words.pop("sparsity", "balanced").split(","), Path(words.pop("out", "densities.png"))
    if not out.absolute().parent.is_dir():
        return _refuse(f"out={out}: there is no folder {out.absolute().parent}")
    if out.suffix not in (".png", ".svg", ".pdf"):
        return _refuse(f"out={out}: must end in .png, .svg or .pdf")
    try:
        (_flow if flow else _densities)(options, words, out)
    except OSError as error:
        return _refuse(f"out={out}: cannot be written ({error.strerror})")
    except UserError as error:
        return _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(_explain(error))
    print(out)
    return 0


def _densities(options: list[str], words: dict[str, str], out: Path) -> None:
    """The layer densities of each option."""
    plans = [_planned({**words, "sparsity": option}) for option in options]
    from ersparse.report.density import plot_densities

    layers, settings = plans[0].layers, plans[0].settings
    found = {
        name: planned.source.densities if planned.source else [1.0] * len(layers)
        for name, planned in zip(options, plans, strict=True)
    }
    print(f"{'layer':36}{'size':>11}" + "".join(f"{name:>12}" for name in found))
    for number, layer in enumerate(layers):
        print(f"{layer.name:36}{layer.size:>11,}" + "".join(f"{values[number]:>12.5g}" for values in found.values()))
    print(f"{'expected':36}{'':>11}" + "".join(f"{planned.expected:>12.5g}" for planned in plans))
    sparsity = settings.sparsity.level if settings.sparsity.budget is None else 1 - plans[0].nominal
    title = f"{settings.model.name}, {settings.dataset.num_classes} classes, sparsity {sparsity:g}"
    plot_densities(layers, found, title, out)


def _flow(options: list[str], words: dict[str, str], out: Path) -> None:
    """Channels without an edge and effective density of each option, over sparsities, with and without repair."""
    levels = words.pop("sparsity.level", FLOW_LEVELS).split(",")
    if "sparsity.budget" in words:
        raise UserError(
            f"sparsity.budget={words['sparsity.budget']}: must not be set with --flow, which goes over levels"
        )
    if "dense" in options:
        raise UserError("sparsity=dense: must be another one with --flow, nothing is drawn")
    repair = words.pop("sparsity.flow", "move")
    plans = {
        (option, flow): [
            _planned({**words, "sparsity": option, "sparsity.level": level, "sparsity.flow": flow}) for level in levels
        ]
        for option in options
        for flow in ("none", repair)
    }
    from ersparse.report import flow as report

    drawn = {option: [report.measure(planned) for planned in plans[option, "none"]] for option in options}
    repaired = {option: [report.measure(planned) for planned in plans[option, repair]] for option in options}
    settings = plans[options[0], repair][0].settings
    print(report.table(drawn, repaired, repair))
    title = f"{settings.model.name}, {settings.dataset.num_classes} classes, seed {settings.seed}"
    report.plot(drawn, repaired, repair, title, out)


def _planned(words: Mapping[str, str]) -> Plan:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", [f"{key}={value}" for key, value in words.items()])
    from ersparse.runs.plan import plan
    from ersparse.settings import Settings, build

    return plan(build(Settings, _values(config)))


def _values(config: DictConfig) -> dict[str, Any]:
    """The composed config as plain values, every key of it known."""
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    plain = {str(key): value for key, value in values.items()}
    _known(plain)
    return plain


def _refuse(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


def _explain(error: Exception) -> str:
    """One line for what Hydra says in several."""
    text = str(error)
    if match := re.search(r"Could not (?:override|append to config\b.*?) '([^']+)'", text):
        return _no_such_key(match[1], _all_keys())
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, option = match[1].rpartition("/")
        return f"{group}={option}: no such option; must be one of {', '.join(options_of(group)) or 'none'}"
    if match := re.search(r"Key '([^']+)' is not in struct\s+full_key: (\S+)", text):
        return _no_such_key(match[2], _all_keys())
    return " ".join(text.split())


def _no_such_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, 1, 0.7)
    if not near:  # perhaps the right name in the wrong place
        near = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"did you mean {near[0]}?" if near else "--help lists the keys"
    return f"{key}: no such key; {hint}"


def _all_keys() -> list[str]:
    """Every key of every option of every group, and the groups, as the command line writes them."""
    keys: set[str] = set()
    for path in CONF.rglob("*.yaml"):
        group = path.parent.relative_to(CONF)
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if isinstance(content, dict) and "hydra" not in group.parts:
            globally = path.read_text().startswith("# @package _global_")
            keys.update(_flat(content, "" if globally or not group.parts else f"{group.parts[0]}."))
            keys.update(group.parts[:1])
    return sorted(keys)


def _flat(content: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    """Keys and the keys below them, with dots."""
    for key, value in content.items():
        if key in ("defaults", "hydra"):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _known(values: Mapping[str, Any]) -> None:
    """Refuses keys that were added with `+`.

    Raises:
        UserError: the key, and the nearest one that there is.
    """
    known = set(_all_keys())
    for key in _flat(values, ""):
        if key not in known:
            raise UserError(_no_such_key(key, sorted(known)))
