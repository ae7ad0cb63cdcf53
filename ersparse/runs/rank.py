"""A rank that the first one started (`ersparse.runs.ranks`): it trains as told, and writes nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ersparse.signals import die_with_parent


def main() -> None:
    die_with_parent()  # before anything that takes time
    decided = json.loads(os.environ["ERSPARSE_RANK"])
    if os.getppid() != decided["parent"]:
        sys.exit(1)

    from ersparse.lightning.ranks import LocalRanks
    from ersparse.runs import console as screen
    from ersparse.runs.plan import plan
    from ersparse.runs.ranks import share_cores
    from ersparse.runs.run import load_arrays
    from ersparse.runs.sources import provide
    from ersparse.runs.train import train
    from ersparse.settings import Settings, Trainer, build

    share_cores(decided["trainer"]["devices"])
    settings = build(Settings, decided["settings"])
    arrays = load_arrays(settings)
    planned = provide(plan(settings), lambda: arrays)
    trainer, console = Trainer(**decided["trainer"]), screen.make_console()
    resume = Path(decided["resume"]) if decided["resume"] else None
    ranks = LocalRanks(decided["rank"], trainer.devices, decided["port"])
    with screen.logging_to(None, console):
        os.write(decided["ready"], b".")
        train(planned, trainer, arrays, planned.checkpoints(), resume, console, None, ranks)
