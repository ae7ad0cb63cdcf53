"""What can be known of the cluster's launcher without a cluster: SLURM's commands are stood in for by scripts."""

import json
import os
import sys
import time
from datetime import datetime, timedelta

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ersparse.config.groups import build
from ersparse.config.options import CONF
from ersparse.distributed import rendezvous as meetings
from ersparse.distributed.rendezvous import Rendezvous
from ersparse.errors import UserError
from ersparse.storage import run_json
from ersparse.sweep.build_jobs import jobs_of
from ersparse.sweep.compose import Composer
from ersparse.sweep.job import Job
from ersparse.sweep.slurm.monitor import GONE, Queue
from ersparse.sweep.slurm.node import ending
from ersparse.sweep.slurm.options import Options
from ersparse.sweep.slurm.preflight import short_limits
from ersparse.sweep.slurm.queue import folder_of, latest_log, queued, tidy
from ersparse.sweep.slurm.submit import Array, longest

KEYS = {
    "partition": None, "account": None, "qos": None, "time_limit": "4:00:00", "cpus_per_task": 4, "gpus": True,
    "memory": None, "at_once": None, "setup": [], "sbatch": {}, "signal_before": 120, "requeues": 20, "wait": True,
}  # fmt: skip


def options(**keys):
    return build(Options, KEYS | keys, "hydra.launcher.")


@pytest.fixture
def answers(tmp_path, monkeypatch):
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
def test_time_limits(given, seconds, minutes):
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
def test_bad_options_get_one_line(keys, line):
    with pytest.raises(UserError) as error:
        options(**keys)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_without_slurm_there_is_one_line(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    status, printed = launch("hydra/launcher=slurm", "seed=0,1")
    assert status == 2 and "there is no" in printed and "on the PATH" in printed and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_two_runs_in_a_job_of_several_tasks_are_refused(launch, tmp_path):
    """With the command that makes the first by itself."""
    words = ["hydra/launcher=slurm", "sparsity=imp_multishot", "sparsity.make=true", "trainer.max_epochs=1"]
    status, printed = launch(*words, "trainer.num_nodes=2")
    assert status == 2 and printed.startswith("sparsity=imp_multishot: a job of several tasks"), printed
    assert "must be there before: `python launch.py model=resnet20" in printed and printed.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_limit_shorter_than_an_epoch_is_seen_in_records(tmp_path):
    """Of runs of the same kind that are done; a line for all of a kind."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer(GlobalHydra.instance().config_loader())
        jobs = jobs_of([[f"seed={seed}", f"paths.root={tmp_path}"] for seed in range(2)], composer)
    assert not list(short_limits(jobs, 60))
    jobs[0].folder.mkdir(parents=True)
    timed = {"config": jobs[0].settings.model_dump(by_alias=True), "timing": {"epochs": 3, "fit_s": 183}}
    (jobs[0].folder / "run.json").write_text(json.dumps({"state": "done", **timed}))
    (line,) = short_limits(jobs, 60)
    assert line.startswith("hydra.launcher.time_limit=0:01:00: an epoch of model=resnet20 dataset=digits has taken")
    assert not list(short_limits(jobs, 61))


def job(root, name="runs/a/s0"):
    return Job(words=("seed=0",), folder=root / name, root=root, devices=1, gpu=False, epochs=3)


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
def test_refusals_name_the_key(answers, tmp_path, said, line):
    answers("srun", "")
    answers("sbatch", said, 1)
    with pytest.raises(UserError) as error:
        Array([job(tmp_path)], options(account="mine"), "sweep", []).check()
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_the_longest_time_of_a_partition(answers):
    answers(
        "scontrol",
        "PartitionName=a Default=YES MaxTime=01:00:00 x\nPartitionName=b Default=NO MaxTime=2-00:00:00\n"
        "PartitionName=c Default=NO MaxTime=UNLIMITED",
    )
    hour = 3600
    assert [longest(name) for name in (None, "a", "b", "c,b")] == [hour, hour, 48 * hour, 48 * hour]
    assert longest("c") == float("inf")


def test_why_a_job_has_to_stop(answers, monkeypatch):
    """And how long it may go on: to its end where that is near, or SLURM has said when; else nobody knows how long."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)

    def told(seconds, preempted="None"):
        end = (datetime.now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")
        answers("scontrol", f"JobId=7 JobState=RUNNING EndTime={end} PreemptTime={preempted}")
        reason, left = ending(120)
        return reason, round(left, -1)

    assert told(125) == ("stopped at its time limit", 120)
    assert told(3605) == ("preempted", 0)
    assert told(45, "2026-11-25T14:06:40") == ("preempted", 40)
    answers("scontrol", "", 1)
    assert ending(120) == ("preempted", 0)


def submitted(root, name, runs):
    folder = folder_of(root) / name
    folder.mkdir(parents=True)
    (folder / "jobs.json").write_text(json.dumps(runs))
    return folder


def test_jobs_are_found_by_their_names(answers, tmp_path):
    one, two = submitted(tmp_path, "ersparse-1", ["runs/a/s0", "runs/a/s1"]), submitted(tmp_path, "ersparse-2", ["b"])
    answers(
        "squeue",
        "7|1|ersparse-1|PENDING|Priority|\n8|N/A|ersparse-2|RUNNING|None|n3\n9|0|other|RUNNING|None|n1",
    )
    places = queued(tmp_path)
    assert {str(path.relative_to(tmp_path)): str(place) for path, place in places.items()} == {
        "runs/a/s1": "7_1 pending (Priority)", "b": "8 running on n3",
    }  # fmt: skip
    assert places[tmp_path / "runs/a/s1"].log == one / "7_1_0_log.out" and not places[tmp_path / "runs/a/s1"].runs
    (two / "8_0_log.out").write_text("x")
    assert latest_log(tmp_path, tmp_path / "b") == two / "8_0_log.out"
    tidy(tmp_path, {tmp_path / "b"})
    assert one.exists() and not two.exists()


def test_a_run_that_left_the_queue_has_ended(tmp_path):
    """Not at the first look at which it is missing: file systems of clusters lag behind."""
    jobs = [job(tmp_path, f"runs/a/s{seed}") for seed in range(3)]
    records = {"state": "done"}, {"state": "failed", "error": "out of luck"}, {"state": "running"}
    for seed, record in enumerate(records):
        jobs[seed].folder.mkdir(parents=True)
        (jobs[seed].folder / "run.json").write_text(json.dumps(record))
    queue = Queue(jobs)
    queue.look({})
    assert [task.state for task in queue.tasks] == ["done", "waiting", "waiting"]
    for _ in range(GONE):
        queue.look({})
    assert [task.state for task in queue.tasks] == ["done", "failed", "failed"]
    assert queue.tasks[1].reason == "out of luck" and queue.tasks[2].reason


def test_a_record_is_marked_and_a_finished_one_left_alone(tmp_path):
    for state, after in (("running", "failed"), ("done", "done")):
        (tmp_path / "run.json").write_text(json.dumps({"state": state, "error": None}))
        run_json.mark_state(tmp_path, "failed", "why")
        assert run_json.read(tmp_path)["state"] == after
    run_json.mark_state(tmp_path / "nowhere", "failed", "why")


def test_ranks_meet(tmp_path, monkeypatch):
    """A status is an end, a beat is life, and silence is a loss once it has lasted."""
    first = Rendezvous(tmp_path, 0, 3, 0, 0)
    others = [Rendezvous(tmp_path, rank, 3, 0, rank) for rank in (1, 2)]
    assert others[0].decided() is None and not first.is_over()
    first.announce({"port": 1})
    assert others[0].decided() == {"port": 1}
    for other in others:
        other.report(None)
    assert first.fallen() is None
    others[0].report(0)
    assert first.fallen() is None
    monkeypatch.setattr(meetings, "LOST", 0.05)
    time.sleep(0.1)
    os.utime(tmp_path / "rank2", (1, 1))  # a beat, whatever a clock says
    assert first.fallen() is None
    time.sleep(0.1)
    assert first.fallen() == (2, None)
    others[1].report(-9)
    assert first.fallen() == (2, -9)
    first.end()
    assert others[1].is_over()
    monkeypatch.setenv(meetings.VARIABLE, others[1].environment()[meetings.VARIABLE])
    assert Rendezvous.here() == others[1]
