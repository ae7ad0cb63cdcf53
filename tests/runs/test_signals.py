"""A signal of a scheduler, at any moment, leaves a run that goes on to the results of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TINY, in_this_process, outcome, read
from pytorch_lightning.loggers import CSVLogger

from ersparse.distributed.signals import ignore_notifications, interruptible
from ersparse.lightning.classifier import Classifier
from ersparse.runs.loggers.csv import CsvLogger
from ersparse.runs.multi_rank import _record_end
from ersparse.runs.record import RunRecord
from ersparse.storage import checkpoints
from ersparse.storage.run_folder import RunFolder

WORDS = [*TINY, "trainer.max_epochs=2"]
BATCH_SCRIPT = {
    "SLURM_NTASKS": "1", "SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "train.sh", "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
}  # fmt: skip
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
MOMENTS = {  # the function during whose n-th call the signal arrives
    "data": ("ersparse.runs.run", "load_arrays", 1),
    "first epoch": (Classifier, "training_step", 2),
    "first checkpoint": (checkpoints, "write_bytes", 1),
    "second epoch": (Classifier, "training_step", 8),
    "second checkpoint": (checkpoints.CheckpointFiles, "keep", 2),
    "network": (RunFolder, "write_network", 1),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    assert in_this_process(root, *WORDS)[0] == 0
    (record,) = root.rglob("run.json")
    return outcome(record.parent)


def signal_during(monkeypatch, number, place, name, call):
    place = sys.modules[place] if isinstance(place, str) else place
    original, calls = getattr(place, name), []

    def disturbed(*arguments, **keywords):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return original(*arguments, **keywords)

    monkeypatch.setattr(place, name, disturbed)


@pytest.mark.parametrize("moment, number", [
    pytest.param(*case, marks=[] if case[0].startswith("first") else [pytest.mark.slow])
    for case in zip(MOMENTS, SIGNALS * 2, strict=True)
])  # fmt: skip
def test_a_run_that_was_signalled_goes_on(launch, only_run, tmp_path, undisturbed, monkeypatch, moment, number):
    for key, value in BATCH_SCRIPT.items():
        monkeypatch.setenv(key, value)
    with monkeypatch.context() as patch:
        signal_during(patch, number, *MOMENTS[moment])
        status, printed = launch(*WORDS)
    assert status == 130 and "Traceback" not in printed, printed
    if moment != "data":
        assert read(only_run())["state"] == "preempted"
        assert not list(only_run().rglob("hpc_ckpt*")) and not list(only_run().rglob("*.partial"))
        (only_run() / "hpc_ckpt_1-0a3e1e43f4d8edd8.ckpt").write_bytes(b"as an older version left it")
    status, printed = launch(*WORDS)
    assert status == 0, printed
    assert outcome(only_run()) == undisturbed


def test_a_run_that_is_done_stays_done(launch, only_run, undisturbed, monkeypatch):
    """The signal arrives while checkpoints are removed, or a logger uploads."""
    with monkeypatch.context() as patch:
        signal_during(patch, signal.SIGTERM, checkpoints.CheckpointFiles, "keep", 3)
        status, printed = launch(*WORDS)
    assert status == 130 and "interrupted after the run was done" in printed, printed
    assert outcome(only_run()) == undisturbed
    status, printed = launch(*WORDS)
    assert status == 0 and "already done" in printed


def test_a_failure_of_a_logger_after_the_run_is_done_does_not_undo_it(launch, only_run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CsvLogger, "create", lambda *_: CSVLogger(only_run()))
        patch.setattr(CsvLogger, "summarise", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            launch(*TINY)
    assert read(only_run())["state"] == "done"


def test_handlers_of_the_program_stay():
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append("own"))
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == ["own"]
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with interruptible():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_ranks_leave_the_notice_to_rank_0():
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    try:
        ignore_notifications()
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR1, before[0])
        signal.signal(signal.SIGUSR2, before[1])


@pytest.mark.slow
def test_a_sweep_that_was_signalled_stops_its_jobs_at_a_checkpoint(tmp_path):
    command = [sys.executable, str(ROOT / "launch.py"), "-m", f"paths.root={tmp_path}", *TINY, "trainer.max_epochs=400"]
    sweep = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list(tmp_path.rglob("epoch*.ckpt")) and sweep.poll() is None:
        time.sleep(0.05)
    sweep.send_signal(signal.SIGUSR1)
    printed, _ = sweep.communicate(timeout=60)
    (record,) = tmp_path.rglob("run.json")
    assert sweep.returncode == 130 and read(record.parent)["state"] == "preempted", printed


def test_a_rank_that_hangs_when_the_run_is_done_leaves_it_done(finished):
    """The watchdog of rank 0 ends the process then, and says why."""
    found = read(finished)
    record = RunRecord(RunFolder(finished), found["hash"], 0, found["config"], 1, gpu=False, before=found)
    _record_end(record, "preempted", "interrupted")
    assert read(finished)["state"] == "done"
