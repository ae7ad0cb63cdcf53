"""The program of a rank other than rank 0: it trains with the settings that rank 0 sent, and writes nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ersparse.distributed.signals import die_with_parent, ignore_notifications


def main() -> None:
    die_with_parent()  # before anything that takes time
    ignore_notifications()
    decided = json.loads(os.environ["ERSPARSE_RANK"])
    if os.getppid() != decided["parent"]:
        sys.exit(1)
    from ersparse.distributed.failed_rank import GPU_FAULT
    from ersparse.distributed.process_group import destroy_group, exit_on_error
    from ersparse.runs.device_errors import is_fault

    try:
        _train(decided)
        destroy_group()
    except BaseException as error:
        exit_on_error(GPU_FAULT if is_fault(error) else 1)


def _train(decided: dict[str, Any]) -> None:
    """Train as one of the ranks, and return when all of them have."""
    from ersparse.config.groups import build
    from ersparse.config.schema import Settings
    from ersparse.data.load import load_arrays
    from ersparse.distributed.environment import RankEnvironment
    from ersparse.distributed.launcher import share_cores
    from ersparse.runs import console as screen
    from ersparse.runs.planner import make_plan
    from ersparse.runs.train import train

    settings = build(Settings, decided["settings"])
    share_cores(settings.trainer.devices)
    plan = make_plan(settings).resolved()
    arrays, console = load_arrays(settings.dataset), screen.make_console()
    resume = Path(decided["resume"]) if decided["resume"] else None
    place = (decided[key] for key in ("rank", "size", "address", "port", "local", "node"))
    with screen.logging_to(None, console):
        if "ready" in decided:
            os.write(decided["ready"], b".")
        train(plan, arrays, plan.checkpoints(), resume, console, None, RankEnvironment(*place))
