"""The `ersparse` command, which has one subcommand for each file of this package. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ersparse.cli.run import launch, refuse
from ersparse.cli.streams import guarded
from ersparse.config.hydra_errors import explain, is_from_hydra
from ersparse.errors import UserError

COMMANDS = """\
ersparse new <folder>
    write a small project of your own: a density, a network, a data set, a preset and their tests
ersparse run [group=option ...] [key=value ...]
    draw, train and record a sparse network; the same as python launch.py (--help for more)
ersparse density [group=option ...] [key=value ...] [sparsity=erk,balanced,...] [out=densities.png]
    print and plot the layer densities of one or more options
ersparse density --flow [sparsity.level=0.9,0.99,...] ...
    print and plot channels without an edge and effective density over sparsities, with and without flow repair
ersparse status [folder] [--watch] [--json]
    list the state of every run below a folder (default: outputs)
ersparse retry <folder> [--run] [--slots N]
    print, or run, the commands of the runs that are not done
ersparse report [folder]
    write tables and plots of the runs below a folder (default: outputs), beside the paper's numbers
ersparse rewiring <run folder> [out=rewiring.png]
    plot how rewiring changed each layer during a run
ersparse export <run folder> [--format sparse|onnx] [--out FILE] [--benchmark] [--trust PACKAGE]
    write the network of a finished run as a file for prediction; --benchmark compares speed and size with dense, and
    --trust names a package of yours, other than ersparse, torchvision and timm, that has the network
ersparse theory lemma|weak|conv|strong|lower [scale=smoke|short|full] [p=0.1,0.5] [delta=0.05] [epsilon=0.01] [seed=N]
    compute and measure the paper's lemma and theorems"""


def main() -> int:
    """Run the subcommand in `sys.argv`, and return the exit status."""
    return guarded(_main)


def _main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(COMMANDS)
        return 0
    if name not in SUBCOMMANDS:
        return refuse(f"ersparse {name}: no such command; must be one of {', '.join(SUBCOMMANDS)}")
    del sys.argv[1]
    if name != "run" and {"-h", "--help"} & set(sys.argv[1:]):
        print(COMMANDS)
        return 0
    try:
        return SUBCOMMANDS[name]()
    except UserError as error:
        return refuse(str(error))
    except Exception as error:
        if not is_from_hydra(error):
            raise
        return refuse(explain(error))


def _subcommand(name: str) -> Callable[[], int]:
    """Return a function that imports `ersparse.cli.<name>` and calls its `main` with the arguments that are left."""

    def run() -> int:
        command: Callable[[Sequence[str]], int] = import_module(f"ersparse.cli.{name}").main
        return command(sys.argv[1:])

    return run


SUBCOMMANDS: dict[str, Callable[[], int]] = {
    "run": launch,
    **{
        name: _subcommand(name)
        for name in ("new", "density", "status", "retry", "report", "rewiring", "export", "theory")
    },
}
