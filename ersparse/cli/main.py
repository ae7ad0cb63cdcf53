"""From the command line to a run: Hydra composes, `ersparse.run` runs, errors become one line and a status.

Status 0: done. 1: failed. 2: bad input. 130: interrupted, and can be resumed. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from typing import Any

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # read at import: Hydra then lets errors through, for us to explain

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ersparse.config.options import CONF, explain, options_of, values_of
from ersparse.distributed.parent_death import tie_to_parent
from ersparse.errors import RunFailed, UserError
from ersparse.sweep.override_syntax import for_hydra
from ersparse.sweep.sweeper import refuse_ranks

HELP_HEAD = """\
ersparse: draw a sparse Erdős–Rényi network, repair its flow, train it, and leave a run folder that explains itself.

Examples
  python launch.py                                          digits, resnet20, balanced at 0.9, in about a minute
  python launch.py model=vgg16 dataset=cifar10 sparsity=erk sparsity.level=0.99 seed=1
  python launch.py method=draw model=vgg19 dataset=cifar100 sparsity=pyramidal sparsity.level=0.999
  python launch.py model=resnet18 sparsity.budget=100000 dry_run=true      says what would run, and creates nothing

Sweeps (-m): every job is checked before the first starts; the same command again goes on where it was
  python launch.py -m sparsity=er,erk seed=0,1,2                            a grid: every combination
  python launch.py -m "model,dataset=[vgg16,cifar10],[vgg19,cifar100]"      keys that take their values together
  python launch.py -m seed=0,1 sparsity=er,erk or sparsity=dense            a union: the rest as in the first grid
  python launch.py -m seed=0,1 hydra.launcher.slots=1 dry_run=true          what would run, and what it would cost

Groups and their options (group=option)"""
HELP_FOOT = """
Launcher of sweeps (hydra.launcher.key=value)
  slots (null: one for each GPU, or core), jobs_per_gpu (1), time_limit (null; seconds for each job)

The same command again resumes: finished runs are skipped, interrupted ones go on. README.md explains the keys;
--hydra-help lists Hydra's own flags."""

COMMANDS = """\
ersparse run [group=option ...] [key=value ...]
    draw, train and record a sparse network: python launch.py from anywhere (--help for more)
ersparse density [group=option ...] [key=value ...] [sparsity=erk,balanced,...] [out=densities.png]
    layer densities of one or more options, printed and plotted
ersparse density --flow [sparsity.level=0.9,0.99,...] ...
    channels without an edge and kept weights on a path over sparsities, with and without repair
ersparse status [folder] [--watch] [--json]
    how every run below a folder stands (outputs, unless given)
ersparse retry <folder> [--run] [--slots N]
    the commands of the runs that are not done, printed or run
ersparse report [folder]
    the runs below a folder (outputs, unless given) as tables and plots beside the paper's numbers
ersparse rewiring <run folder> [out=rewiring.png]
    what rewiring did to each layer over a run, plotted
ersparse export <run folder> [--format sparse|onnx] [--out FILE] [--benchmark]
    the finished run's network as a file for prediction; with its speed and size beside the dense network's
ersparse theory lemma|weak|conv|strong|lower [scale=smoke|short|full] [p=0.1,0.5] [delta=0.05] [epsilon=0.01] [seed=N]
    the paper's lemma and theorems, computed and measured, in a run folder"""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _task(config: DictConfig) -> None:
    """Exits here where it can: Hydra announces every exception that passes through it."""
    try:
        values = values_of(config)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            refuse_ranks(HydraConfig.get().launcher["_target_"], config.trainer.devices)
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
    tie_to_parent()
    sys.argv[1:] = for_hydra(sys.argv[1:])
    try:
        _task()
    except UserError as error:
        return _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explain(error))
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


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def main() -> int:
    """The `ersparse` command: `ersparse run ...` is `python launch.py ...` from anywhere."""
    commands = {
        "run": launch,
        "density": _density,
        "status": _status,
        "retry": _retry,
        "report": _report,
        "rewiring": _rewiring,
        "export": _export,
        "theory": _theory,
    }
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(COMMANDS)
        return 0
    if name not in commands:
        return _refuse(f"ersparse {name}: no such command; must be one of {', '.join(commands)}")
    del sys.argv[1]
    if name != "run" and {"-h", "--help"} & set(sys.argv[1:]):
        print(COMMANDS)
        return 0
    try:
        return commands[name]()
    except UserError as error:
        return _refuse(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explain(error))


def _density() -> int:
    from ersparse.cli.density import main

    return main(sys.argv[1:])


def _status() -> int:
    from ersparse.cli.status import main

    return main(sys.argv[1:])


def _retry() -> int:
    from ersparse.cli.retry import main

    return main(sys.argv[1:])


def _report() -> int:
    from ersparse.cli.report import main

    return main(sys.argv[1:])


def _rewiring() -> int:
    from ersparse.cli.rewiring import main

    return main(sys.argv[1:])


def _export() -> int:
    from ersparse.cli.export import main

    return main(sys.argv[1:])


def _theory() -> int:
    from ersparse.cli.theory import overrides

    sys.argv[1:] = overrides(sys.argv[1:])
    return launch()


def _refuse(line: str) -> int:
    print(line, file=sys.stderr)
    return 2
