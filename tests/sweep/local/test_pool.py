"""How jobs are started, watched and stopped, with little scripts in place of runs."""

import io
import json
import os
import signal
import threading
import time
from contextlib import ExitStack

import pytest
from rich.console import Console

from ersparse.storage.run_folder import RunFolder
from ersparse.sweep.job import Job
from ersparse.sweep.local import pool as pools
from ersparse.sweep.local import process
from ersparse.sweep.local.pool import Pool
from ersparse.sweep.local.slots import Slot, environment, room_for, slots_of
from ersparse.sweep.progress_table import ProgressTable, clock

SCRIPT = """
import json, os, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = words["folder"]
def write(**content):
    os.makedirs(folder, exist_ok=True)
    with open(folder + "/run.json.partial", "w") as file:
        json.dump({"progress": {"epoch": 0, "epochs": 3}, "metrics": {}} | content, file)
    os.replace(folder + "/run.json.partial", folder + "/run.json")
def say():
    keys = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE", "PL_GLOBAL_SEED", "MASTER_ADDR")
    return {key: os.environ.get(key) for key in keys} | {"words": sys.argv[1:]}
what = words["what"]
if what == "fail":
    print("out of luck")
    sys.exit(1)
if what == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if what == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)
if what == "slow":
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        write(state="preempted")
        sys.exit(130)
write(state="done", said=say(), cores=sorted(os.sched_getaffinity(0)))
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    (tmp_path / "job.py").write_text(SCRIPT)
    monkeypatch.setattr(process, "COMMAND", [str(tmp_path / "job.py")])


@pytest.fixture
def job(tmp_path):
    def make(name, what="work", devices=1, gpu=False, fresh=False):
        folder = tmp_path / "root" / "runs" / name / "s0"
        words = (f"what={what}", f"folder={folder}")
        return Job(words, folder, tmp_path / "root", devices, gpu, epochs=3, fresh=fresh)

    return make


def cpu(count):
    cores = sorted(os.sched_getaffinity(0))
    return [Slot((cores[n % len(cores)],)) for n in range(count)]


def run(jobs, slots=2, time_limit=None, extra=()):
    pool = Pool(jobs, cpu(slots) if isinstance(slots, int) else slots, time_limit, extra)
    return pool, pool.run(lambda: None)


def record(job):
    return json.loads((job.folder / "run.json").read_text())


def test_a_failing_job_stops_no_other(job, capsys):
    jobs = [job("a"), job("b", "fail"), job("c", "crash"), job("d")]
    pool = Pool(jobs, cpu(2), None)
    with ProgressTable(pool) as screen:
        status = pool.run(screen.update)
    assert status == 1
    assert [(task.state, task.reason) for task in pool.tasks] == [
        ("done", ""),
        ("failed", "out of luck"),
        ("failed", f"killed by signal {signal.SIGSEGV:d}"),
        ("done", ""),
    ]
    printed = capsys.readouterr().out
    assert "failed  runs/b/s0: out of luck\n        log: " in printed
    assert printed.splitlines()[-1] == "4 jobs on 2 slots: 2 done, 2 failed"
    assert jobs[1].log.read_text() == "out of luck\n" and not jobs[0].log.exists()


def test_the_live_table_fits_the_screen_and_takes_reasons_as_they_are(job, monkeypatch):
    """No reason is read as markup, and of many jobs the running ones and the summary stay in sight."""
    pool = Pool([job(f"job{n}", "fail" if n < 9 else "work") for n in range(40)], cpu(2), None)
    screen = ProgressTable(pool)
    for task in pool.tasks[:9]:
        task.state, task.reason = "failed", "[/nowhere] must lie in [0, 1)"
    for task in pool.tasks[9:]:
        task.state = "running"
    console = Console(width=100, height=24, record=True, file=io.StringIO())
    screen.console = console
    console.print(screen.picture())
    lines = console.export_text().splitlines()
    assert len(lines) <= 24 and lines[-1].startswith("40 jobs on 2 slots: 31 running, 9 failed")
    assert lines[-2].startswith("running   runs/job39/s0")
    for task in pool.tasks[9:]:
        task.state = "waiting"
    console.print(screen.picture())
    assert "[/nowhere] must lie in [0" in console.export_text()


def test_what_is_done_is_skipped_without_a_process(job):
    jobs = [job("a"), job("b")]
    run(jobs[:1])
    jobs[0].folder.joinpath("run.json").write_text('{"state": "done", "untouched": 1}')
    pool, status = run(jobs)
    assert status == 0 and [task.before for task in pool.tasks] == [True, False]
    assert record(jobs[0])["untouched"] == 1
    pool, _ = run([job("a", fresh=True)])
    assert not pool.tasks[0].before and "untouched" not in record(jobs[0])


def test_nothing_is_left_beside_the_runs(job, tmp_path):
    run([job("a")])
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["runs"]


def test_each_job_has_a_clean_environment_and_its_share(job, monkeypatch):
    for key in ("WORLD_SIZE", "PL_GLOBAL_SEED", "MASTER_ADDR"):
        monkeypatch.setenv(key, "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = job("a")
    run([made], extra=["hydra.searchpath=[x]"])
    said = record(made)["said"]
    assert said["words"][2:] == ["hydra.searchpath=[x]", "hydra.mode=RUN"]
    assert said | {"words": 0} == {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"), "OMP_NUM_THREADS": "1", "WORLD_SIZE": None,
        "PL_GLOBAL_SEED": None, "MASTER_ADDR": None, "words": 0,
    }  # fmt: skip


def test_gpus_go_round(job):
    slots = [Slot((0,), "3"), Slot((0,), "7")]
    jobs = [job("a", gpu=True), job("b", gpu=True), job("both", gpu=True, devices=2)]
    _, status = run(jobs, slots)
    assert status == 0
    given = [record(each)["said"]["CUDA_VISIBLE_DEVICES"] for each in jobs]
    assert sorted(given[:2]) == ["3", "7"] and sorted(given[2].split(",")) == ["3", "7"]


def test_a_time_limit_stops_one_job_and_names_it(job):
    pool, status = run([job("a", "slow"), job("b")], time_limit=1.0)
    assert status == 1 and [task.state for task in pool.tasks] == ["failed", "done"]
    assert pool.tasks[0].reason == "stopped at the time limit of 1 s"
    assert record(pool.tasks[0].job)["state"] == "preempted", "it was asked before it was killed"


def test_a_job_that_does_not_stop_is_killed(job, monkeypatch):
    monkeypatch.setattr(pools, "GRACE", 0.3)
    began = time.monotonic()
    pool, status = run([job("a", "stubborn")], time_limit=0.5)
    assert status == 1 and time.monotonic() - began < 20
    assert pool.tasks[0].process.popen.returncode == -signal.SIGKILL


def test_ctrl_c_stops_the_jobs_and_starts_no_more(job):
    jobs = [job("a", "slow"), job("b", "slow"), job("c")]
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    pool, status = run(jobs)
    timer.join()
    assert status == 130
    assert [task.state for task in pool.tasks] == ["stopped", "stopped", "waiting"]
    assert record(jobs[0])["state"] == "preempted" and not jobs[2].folder.exists()


def test_a_folder_in_use_is_waited_for_and_others_go_first(job, monkeypatch, capsys):
    monkeypatch.setattr(pools, "HELD_PAUSE", 0.1)
    jobs = [job("a"), job("b")]
    held = ExitStack()
    held.enter_context(RunFolder(jobs[0].folder).acquire())
    pool = Pool(jobs, cpu(1), None)
    screen = ProgressTable(pool)

    def look():
        screen.update()
        if pool.tasks[1].state == "done" and pool.tasks[0].state == "held":
            held.close()

    assert pool.run(look) == 0
    printed = capsys.readouterr().out
    assert "held    runs/a/s0  waiting for another process" in printed
    assert printed.index("done    runs/b/s0") < printed.index("done    runs/a/s0")


def test_what_another_process_finished_meanwhile_is_not_run_again(job, monkeypatch):
    monkeypatch.setattr(pools, "HELD_PAUSE", 0.1)
    made = job("a", "fail")
    held = ExitStack()
    held.enter_context(RunFolder(made.folder).acquire())

    def finish():
        (made.folder / "run.json").write_text('{"state": "done"}')
        held.close()

    assert Pool([made], cpu(1), None).run(finish) == 0


# ---- Slots ---------------------------------------------------------------------------------------------------------


def test_slots_of_gpus_and_cores():
    assert slots_of(None, 1, [], range(4), 64) == [Slot((0,)), Slot((1,)), Slot((2,)), Slot((3,))]
    assert slots_of(2, 1, [], range(4), 64) == [Slot((0, 1)), Slot((2, 3))]
    assert slots_of(None, 1, [], range(8), 4.5) == [Slot((0, 1, 2, 3)), Slot((4, 5, 6, 7))]
    assert slots_of(3, 1, [], range(2), 64) == [Slot((0,)), Slot((1,)), Slot((0,))]
    assert slots_of(None, 2, ["0", "5"], range(8), 1) == [
        Slot((0, 1), "0"), Slot((2, 3), "5"), Slot((4, 5), "0"), Slot((6, 7), "5"),
    ]  # fmt: skip
    assert slots_of(1, 2, ["0", "5"], range(2), 64) == [Slot((0, 1), "0")]


def test_room_for_ranks():
    gpus = slots_of(None, 2, ["0", "5"], range(4), 64)
    assert room_for(2, gpus, gpus) == [gpus[0], gpus[1]]
    assert room_for(2, [gpus[0], gpus[2]], gpus) is None, "two shares of one GPU are not two GPUs"
    assert room_for(3, gpus, gpus) is None
    cores = slots_of(2, 1, [], range(4), 64)
    assert room_for(2, cores, cores) == cores and room_for(2, cores[:1], cores) is None
    assert room_for(2, cores[:1], cores[:1]) == cores[:1], "ranks share the only slot"


def test_threads_are_cores_by_ranks():
    slot = Slot((0, 1, 2, 3))
    assert environment({}, [slot], 1)["OMP_NUM_THREADS"] == "4"
    assert environment({}, [slot], 2)["OMP_NUM_THREADS"] == "2"
    assert environment({"OMP_NUM_THREADS": "1"}, [slot], 1)["OMP_NUM_THREADS"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in environment({}, [slot], 1)


def test_clock():
    assert [clock(seconds) for seconds in (0.4, 59.6, 3600)] == ["0:00:00", "0:01:00", "1:00:00"]
