"""`python launch.py` and `ersparse run`: Hydra composes, `ersparse.run` runs, an error becomes one line and a status.

Exit status 0: done. 1: failed. 2: bad input. 130: interrupted, and can be resumed. Imports no torch.
"""

from __future__ import annotations

import os
import signal
import sys

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # read at import; Hydra then passes errors on to `explain`

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ersparse.cli.help import help_text
from ersparse.cli.overrides import for_hydra_parser
from ersparse.cli.streams import guarded
from ersparse.config.hydra_errors import explain, is_from_hydra
from ersparse.config.options import CONF, use_config_folders, values_of
from ersparse.distributed.parent_death import tie_to_parent
from ersparse.errors import RunFailed, UserError
from ersparse.storage import run_json
from ersparse.sweep.sweeper import refuse_ranks


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _task(config: DictConfig) -> float | None:
    """Run the composed configuration, and return its validation accuracy, if it has one, to Hydra's own sweepers.

    Expected errors exit here, since Hydra prints a notice for each exception.
    """
    try:
        values = values_of(config)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            refuse_ranks(HydraConfig.get().launcher["_target_"], config.trainer.devices)
        from ersparse import run

        record = run_json.read(run(values))
        return record["metrics"].get("val/acc") if record and record.get("metrics") else None
    except UserError as error:
        sys.exit(refuse(str(error)))
    except OmegaConfBaseException as error:  # an interpolation that cannot be resolved
        sys.exit(refuse(explain(error)))
    except RunFailed as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would only end in a traceback
        sys.exit(130)


def launch() -> int:
    """Run the command line in `sys.argv`, and return the exit status."""
    return guarded(_launch)


def _launch() -> int:
    try:
        use_config_folders(sys.argv[1:])
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(help_text())
            return 0
        tie_to_parent()
        sys.argv[1:] = for_hydra_parser(sys.argv[1:])
        _task()
    except SystemExit as exit_:
        if exit_.code == 1 and {"--package", "-p"} & set(sys.argv):  # there is no such package
            return 2
        raise
    except UserError as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not is_from_hydra(error):
            raise
        return refuse(explain(error))
    return 0


def refuse(line: str) -> int:
    """Print one line about bad input, and return its exit status, 2."""
    print(*line.splitlines(), sep=r"\n", file=sys.stderr)
    return 2
