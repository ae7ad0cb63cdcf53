"""Training on all ranks of a run: rank 0 sends its decisions to the others and trains with them."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import Any

from ersparse.data.streamed import ImageData
from ersparse.distributed import launcher
from ersparse.distributed.environment import RankEnvironment
from ersparse.distributed.other_launchers import hidden_rank_variables
from ersparse.distributed.process_group import leaving_group
from ersparse.distributed.rendezvous import Rendezvous
from ersparse.runs.console import log
from ersparse.runs.data_record import describe_data
from ersparse.runs.lifecycle import RESUME_HINT, is_recorded_as_done
from ersparse.runs.record import NetworkRecord
from ersparse.runs.train import train
from ersparse.storage.checkpoints import CheckpointFiles


def train_on_all_ranks(
    record: NetworkRecord,
    arrays: ImageData,
    checkpoints: CheckpointFiles,
    resume: tuple[int, Path] | None,
    console: Any,
) -> None:
    """Train as rank 0, together with ranks that this process launches or that a cluster has started.

    Args:
        record: the record of the run, whose plan has its trainer settings resolved.
        arrays: the data set.
        checkpoints: the checkpoints of the run.
        resume: epochs done and path of the checkpoint to resume from.
        console: the console for progress.
    """
    plan, path = record.plan, resume[1] if resume else None
    if resume:
        log.info(f"resuming after epoch {resume[0]}")
        record.save(progress={"epoch": resume[0], "epochs": plan.epochs})
    record.content["data"] = describe_data(arrays, plan.settings)
    ranks, rendezvous = plan.settings.trainer.ranks, Rendezvous.here()
    run_rank = partial(train, plan, arrays, checkpoints, path, console, record)
    if ranks == 1:
        with hidden_rank_variables():
            return run_rank(RankEnvironment.single())
    address = socket.gethostname() if rendezvous else "127.0.0.1"
    port = launcher.free_port("" if rendezvous else address)
    decided = {
        "settings": plan.settings.model_dump(by_alias=True),
        "resume": str(path) if path else None,
        "size": ranks,
        "address": address,
        "port": port,
    }
    environment = RankEnvironment(0, ranks, address, port)
    if rendezvous:
        rendezvous.announce(decided)
        with leaving_group():
            return run_rank(environment)
    with hidden_rank_variables(), launcher.launch_ranks(ranks, decided, partial(_record_end, record)):
        run_rank(environment)


def _record_end(record: NetworkRecord, state: str, line: str) -> None:
    """Record why the run ends, before the launcher ends this process, unless it is done already."""
    if is_recorded_as_done(record):
        log.warning(f"{line}, after the run was done")
        return
    record.save(state=state, error=line if state == "failed" else None)
    log.error(f"{line}; {RESUME_HINT}")
