"""A rank that is not the first: it trains as told, and writes nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from ersparse.distributed.signals import die_with_parent


def main() -> None:
    die_with_parent()  # before anything that takes time
    decided = json.loads(os.environ["ERSPARSE_RANK"])
    if os.getppid() != decided["parent"]:
        sys.exit(1)

    from ersparse.config.schema import Settings, TrainerSettings, build
    from ersparse.distributed.environment import RankEnvironment
    from ersparse.distributed.launcher import share_cores
    from ersparse.runs import console as screen
    from ersparse.runs.plan import make_plan
    from ersparse.runs.run import load_arrays
    from ersparse.runs.train import train
    from ersparse.sources.select import provide

    share_cores(decided["trainer"]["devices"])
    settings = build(Settings, decided["settings"])
    arrays = load_arrays(settings)
    planned = provide(make_plan(settings), lambda: arrays)
    trainer, console = TrainerSettings(**decided["trainer"]), screen.make_console()
    resume = Path(decided["resume"]) if decided["resume"] else None
    place = (decided[key] for key in ("rank", "size", "address", "port", "local", "node"))
    with screen.logging_to(None, console):
        if "ready" in decided:
            os.write(decided["ready"], b".")
        train(planned, trainer, arrays, planned.checkpoints(), resume, console, None, RankEnvironment(*place))
