"""`python -m ersparse.runs.rank`: a rank that the first one started. It trains as told, and writes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from ersparse.lightning.ranks import LocalRanks
from ersparse.runs import console as screen
from ersparse.runs.plan import plan
from ersparse.runs.ranks import share_cores, told
from ersparse.runs.run import load_arrays
from ersparse.runs.train import train
from ersparse.settings import Settings, Trainer, build


def main() -> None:
    decided = told()
    share_cores(decided["trainer"]["devices"])
    planned = plan(build(Settings, decided["settings"]))
    trainer = Trainer(**decided["trainer"])
    resume = Path(decided["resume"]) if decided["resume"] else None
    console = screen.make_console()
    with screen.logging_to(None, console):
        ranks = LocalRanks(decided["rank"], trainer.devices, decided["port"])
        arrays = load_arrays(planned.settings)
        train(planned, trainer, arrays, planned.checkpoints(), resume, console, None, ranks)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
