"""How a rank leaves its process group, also if the other ranks never answer."""

import json
import os
import threading

import pytest
from torch import distributed

from ersparse.distributed import process_group
from ersparse.distributed.failed_rank import FailedRank
from ersparse.distributed.process_group import abort_group, destroy_group, leaving_group
from ersparse.runs import rank_main


@pytest.fixture(autouse=True)
def group(tmp_path):
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    destroy_group()


def test_a_group_is_left_with_the_block_that_initialised_it(monkeypatch):
    destroyed = []
    original = distributed.destroy_process_group
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: (destroyed.append(1), original()))
    with leaving_group():
        pass
    assert destroyed and not distributed.is_initialized()
    with leaving_group():
        assert not distributed.is_initialized()  # a run on one device has none


def test_after_an_error_it_is_aborted_and_never_destroyed(monkeypatch):
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: pytest.fail("it would wait for the other ranks"))
    with pytest.raises(KeyboardInterrupt), leaving_group():
        raise KeyboardInterrupt
    assert not distributed.is_initialized()


@pytest.mark.parametrize(
    "error, status, line",
    [
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), 75, "rank 1 of 2 lost its GPU, as printed"),
        (RuntimeError("out of luck"), 1, "rank 1 of 2 failed (status 1), as printed"),
        (KeyboardInterrupt(), 1, "rank 1 of 2 failed"),
    ],
)
def test_a_rank_whose_gpu_fails_is_lost_and_not_failed(error, status, line, monkeypatch):
    """A cluster requeues a run with a lost rank."""

    def failing(_):
        raise error

    statuses = []
    monkeypatch.setenv("ERSPARSE_RANK", json.dumps({"parent": os.getppid()}))
    for name in ("die_with_parent", "ignore_notifications"):
        monkeypatch.setattr(rank_main, name, lambda: None)
    monkeypatch.setattr(rank_main, "_train", failing)
    monkeypatch.setattr(process_group, "exit_on_error", statuses.append)
    rank_main.main()
    failed = FailedRank(1, statuses[0])
    assert statuses == [status] and failed.was_killed == (status == 75) and failed.describe(2).startswith(line)


def test_an_abort_that_hangs_does_not_hang_the_process(monkeypatch):
    hanging = threading.Event()
    monkeypatch.setattr(process_group, "ABORT_WAIT", 0.05)
    monkeypatch.setattr(distributed.distributed_c10d, "_abort_process_group", hanging.wait)
    abort_group()
    assert not distributed.is_initialized()
    hanging.set()
