"""The SLURM launcher without a cluster: scripts on the PATH stand in for SLURM's commands."""

import json
import os
import sys
import time
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ersparse.config.groups import build
from ersparse.config.options import CONF
from ersparse.distributed import rendezvous
from ersparse.distributed.rendezvous import Rendezvous
from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.storage.checkpoint_request import is_requested
from ersparse.sweep.build_jobs import build_jobs
from ersparse.sweep.compose import Composer
from ersparse.sweep.job import Job
from ersparse.sweep.slurm.limits import partition_time_limit
from ersparse.sweep.slurm.monitor import FAILED_AFTER, QueueMonitor
from ersparse.sweep.slurm.node import stop_after_epoch, stop_reason
from ersparse.sweep.slurm.options import SlurmOptions
from ersparse.sweep.slurm.preflight import time_limit_warnings
from ersparse.sweep.slurm.queue import latest_log, list_queue, remove_finished_submissions, slurm_folder
from ersparse.sweep.slurm.submit import JobArray

KEYS = {
    "partition": None, "account": None, "qos": None, "time_limit": "4:00:00", "cpus_per_task": 4, "gpus": True,
    "memory": None, "at_once": None, "setup": [], "sbatch": {}, "signal_before": 120, "requeues": 20, "wait": True,
}  # fmt: skip


def options(**keys):
    return build(SlurmOptions, KEYS | keys, "hydra.launcher.")


@pytest.fixture
def fake_command(tmp_path, monkeypatch):
    """Puts a command on the PATH that prints `text` to stdout, or to stderr where it fails."""

    def put(command, text, status=0):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        body = f"print({text!r}, file=sys.std{'err' if status else 'out'}); sys.exit({status})"
        (folder / command).write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
        (folder / command).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(
    "given, seconds, minutes",
    [(90, 90, 2), ("4:00:00", 14400, 240), ("0:30", 1800, 30), ("1-12:00:00", 129600, 2160), ("2-00:00", 172800, 2880)],
)
def test_time_limits_are_parsed_and_rounded_up_to_minutes(given, seconds, minutes):
    assert (options(time_limit=given).time_limit, options(time_limit=given).minutes) == (seconds, minutes)


@pytest.mark.parametrize(
    "keys, line",
    [
        ({"time_limit": "soon"}, "hydra.launcher.time_limit=soon: must lie in [60, inf)"),
        ({"time_limit": 5}, "hydra.launcher.time_limit=5: must lie in [60, inf)"),
        ({"requeues": -1}, "hydra.launcher.requeues=-1: must lie in [0, inf)"),
        ({"partition": 3}, "hydra.launcher.partition=3: must be a valid string"),
        ({"nodes": 3}, "hydra.launcher.nodes=3: no such key"),
    ],
)
def test_an_invalid_option_is_refused_in_one_line(keys, line):
    with pytest.raises(UserError) as error:
        options(**keys)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_a_missing_slurm_is_reported_in_one_line(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    status, printed = launch("hydra/launcher=slurm", "seed=0,1")
    assert status == 2 and "there is no" in printed and "on the PATH" in printed and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_job_of_several_tasks_with_an_unfinished_prerequisite_is_refused(launch, tmp_path):
    """The error gives the command that runs the prerequisite by itself."""
    words = ["hydra/launcher=slurm", "sparsity=imp_multishot", "sparsity.make=true", "trainer.max_epochs=1"]
    status, printed = launch(*words, "trainer.num_nodes=2")
    assert status == 2 and printed.startswith("sparsity=imp_multishot: a job of several tasks"), printed
    assert "must be there before: `python launch.py model=resnet20" in printed and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_time_limit_shorter_than_a_recorded_epoch_gives_a_warning(tmp_path):
    """Epoch times are those of finished runs of the same kind; each kind gives one warning."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer(GlobalHydra.instance().config_loader())
        jobs = build_jobs([[f"seed={seed}", f"paths.root={tmp_path}"] for seed in range(2)], composer)
    assert not list(time_limit_warnings(jobs, 60))
    jobs[0].folder.mkdir(parents=True)
    timed = {"config": jobs[0].settings.model_dump(by_alias=True), "timing": {"epochs": 3, "fit_s": 183}}
    (jobs[0].folder / "run.json").write_text(json.dumps({"state": "done", **timed}))
    (line,) = time_limit_warnings(jobs, 60)
    assert line.startswith("hydra.launcher.time_limit=0:01:00: an epoch of model=resnet20 dataset=digits has taken")
    assert not list(time_limit_warnings(jobs, 61))
    timed["config"]["trainer"]["accelerator"] = "cpu"
    (jobs[0].folder / "run.json").write_text(json.dumps({"state": "done", **timed}))
    assert list(time_limit_warnings(jobs, 60)) and not list(time_limit_warnings(jobs, 60, gpus=True))


def job(root, name="runs/a/s0"):
    return Job(overrides=("seed=0",), folder=root / name, root=root, devices=1, gpu=False, epochs=3)


@pytest.mark.parametrize(
    "said, line",
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "hydra.launcher.account=mine: SLURM refuses it (Invalid account or",
        ),
        ("allocation failure: Invalid qos specification", "hydra.launcher.qos=null: SLURM refuses it (Invalid qos"),
        (
            "allocation failure: Requested node configuration is not available",
            "trainer.devices=1: trainer.num_nodes=1 nodes with so many tasks of hydra.launcher.cpus_per_task=4 cores",
        ),
        ("allocation failure: Socket timed out", "hydra/launcher=slurm: allocation failure: Socket timed out"),
    ],
)
def test_a_refusal_by_slurm_names_the_key(fake_command, tmp_path, said, line):
    fake_command("srun", "")
    fake_command("sbatch", said, 1)
    with pytest.raises(UserError) as error:
        JobArray([job(tmp_path)], options(account="mine"), "sweep", []).check()
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize("word, line", [
    ("hydra.launcher.sbatch={constraint: a100}", "#SBATCH --constraint=a100"),
    ("hydra.launcher.sbatch.gres='gpu:1'", "#SBATCH --gres=gpu:1"),
    ("+hydra.launcher.sbatch.nice=7", "#SBATCH --nice=7"),
])  # fmt: skip
def test_options_of_sbatch_are_set_on_the_command_line(launch, fake_command, word, line):
    fake_command("scontrol", "PartitionName=main Default=YES MaxTime=UNLIMITED")
    for command in ("sbatch", "squeue", "sinfo"):
        fake_command(command, "")
    status, printed = launch("-m", "seed=0", "method=draw", "hydra/launcher=slurm", word, "dry_run=true")
    assert status == 0 and line in printed.splitlines(), printed


def test_the_time_limit_of_a_partition(fake_command):
    fake_command(
        "scontrol",
        "PartitionName=a Default=YES MaxTime=01:00:00 x\nPartitionName=b Default=NO MaxTime=2-00:00:00\n"
        "PartitionName=c Default=NO MaxTime=UNLIMITED",
    )
    hour = 3600
    assert [partition_time_limit(name) for name in (None, "a", "b", "c,b")] == [hour, hour, 48 * hour, 48 * hour]
    assert partition_time_limit("c") == float("inf")


def test_a_stop_asks_for_a_checkpoint_that_the_run_may_otherwise_not_write(tmp_path):
    process = SimpleNamespace(poll=lambda: None, send_signal=lambda number: None, wait=lambda seconds: 0)
    stop_after_epoch(process, tmp_path, 0.0)
    assert is_requested(tmp_path / "checkpoints")


def test_the_reason_for_a_stop_and_the_time_left(fake_command, monkeypatch):
    """The time left is that to the end of the job, if it is near or SLURM has announced a preemption, else 0."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)

    def told(seconds, preempted="None"):
        end = (datetime.now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        fake_command("scontrol", f"JobId=7 JobState=RUNNING EndTime={end} PreemptTime={preempted}")
        reason, left = stop_reason(120)
        return reason, round(left, -1)

    assert told(125) == ("stopped at its time limit", 120)
    assert told(3605) == ("preempted", 0)
    assert told(45, "2026-11-25T14:06:40") == ("preempted", 40)
    fake_command("scontrol", "", 1)
    assert stop_reason(120) == ("preempted", 0)


def submitted(root, name, runs):
    folder = slurm_folder(root) / name
    folder.mkdir(parents=True)
    (folder / "jobs.json").write_text(json.dumps(runs))
    return folder


def test_jobs_in_the_queue_are_assigned_to_runs_by_their_names(fake_command, tmp_path):
    one, two = submitted(tmp_path, "ersparse-1", ["runs/a/s0", "runs/a/s1"]), submitted(tmp_path, "ersparse-2", ["b"])
    fake_command(
        "squeue",
        "7|1|ersparse-1|PENDING|Priority|\n8|N/A|ersparse-2|RUNNING|None|n3\n9|0|other|RUNNING|None|n1",
    )
    entries = list_queue(tmp_path)
    assert {str(path.relative_to(tmp_path)): str(entry) for path, entry in entries.items()} == {
        "runs/a/s1": "7_1 pending (Priority)", "b": "8 running on n3",
    }  # fmt: skip
    assert (
        entries[tmp_path / "runs/a/s1"].log == one / "7_1_0_log.out" and not entries[tmp_path / "runs/a/s1"].is_running
    )
    (two / "8_0_log.out").write_text("x")
    assert latest_log(tmp_path, tmp_path / "b") == two / "8_0_log.out"
    remove_finished_submissions(tmp_path, {tmp_path / "b"})
    assert one.exists() and not two.exists()


def test_a_run_that_is_missing_in_several_queries_has_ended(tmp_path):
    """Shared file systems lag behind, so one query without it is not enough."""
    jobs = [job(tmp_path, f"runs/a/s{seed}") for seed in range(3)]
    records = {"state": "done"}, {"state": "failed", "error": "out of luck"}, {"state": "running"}
    for seed, record in enumerate(records):
        jobs[seed].folder.mkdir(parents=True)
        (jobs[seed].folder / "run.json").write_text(json.dumps(record))
    monitor = QueueMonitor(jobs)
    monitor.update({})
    assert [job_state.state for job_state in monitor.states] == ["done", "waiting", "waiting"]
    for _ in range(FAILED_AFTER):
        monitor.update({})
    assert [job_state.state for job_state in monitor.states] == ["done", "failed", "failed"]
    assert monitor.states[1].reason == "out of luck" and monitor.states[2].reason


def test_marking_the_state_of_a_run_leaves_a_finished_run_unchanged(tmp_path):
    for state, after in (("running", "failed"), ("done", "done")):
        (tmp_path / "run.json").write_text(json.dumps({"state": state, "error": None}))
        run_json.mark_state(tmp_path, "failed", "why")
        assert run_json.read(tmp_path)["state"] == after
    run_json.mark_state(tmp_path / "nowhere", "failed", "why")


def test_rendezvous_detects_failed_and_lost_ranks(tmp_path, monkeypatch):
    """A rank fails with its exit status, and is lost once its heartbeat has stopped for the timeout."""
    first = Rendezvous(tmp_path, 0, 3, 0, 0)
    others = [Rendezvous(tmp_path, rank, 3, 0, rank) for rank in (1, 2)]
    assert others[0].announced_settings() is None and not first.is_closed()
    first.announce({"port": 1})
    assert others[0].announced_settings() == {"port": 1}
    for other in others:
        other.send_heartbeat()
    assert first.failed_rank() is None
    others[0].report_exit(0)
    assert first.failed_rank() is None
    monkeypatch.setattr(rendezvous, "HEARTBEAT_TIMEOUT", 0.05)
    time.sleep(0.1)
    os.utime(tmp_path / "rank2", (1, 1))  # a heartbeat by a clock that is behind
    assert first.failed_rank() is None
    time.sleep(0.1)
    assert first.failed_rank() == (2, None)
    others[1].report_exit(-9)
    assert first.failed_rank() == (2, -9)
    first.close()
    assert others[1].is_closed()
    monkeypatch.setenv(rendezvous.VARIABLE, others[1].environment()[rendezvous.VARIABLE])
    assert Rendezvous.here() == others[1]


@pytest.mark.parametrize(
    "sbatch, lines", [({}, 1), ({"gres": "gpu:a100:1"}, 0), ({"gpus-per-task": 1}, 0), ({"constraint": "a100"}, 1)]
)
def test_gpus_of_a_type_replace_those_that_a_job_requests(sbatch, lines, tmp_path):
    """sbatch refuses two requests that differ."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer(GlobalHydra.instance().config_loader())
        jobs = build_jobs([["trainer=gpu", f"paths.root={tmp_path}"]], composer, local=False)
    script = JobArray(jobs, options(sbatch=sbatch), "sweep", []).script()
    assert script.count("#SBATCH --gpus-per-node=1") == lines and script.count("gpu:a100:1") == ("gres" in sbatch)
