"""The pool starts, watches and stops jobs; scripts stand in for runs."""

import io
import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from conftest import ROOT
from rich.console import Console

from ersparse.errors import UserError
from ersparse.storage.run_folder import RunFolder
from ersparse.sweep.durations import format_duration
from ersparse.sweep.job import Job
from ersparse.sweep.local import mps, process
from ersparse.sweep.local import pool as pools
from ersparse.sweep.local import slots as slot_module
from ersparse.sweep.local.launcher import LocalLauncher
from ersparse.sweep.local.pool import Pool
from ersparse.sweep.local.slots import (
    Slot,
    allocate,
    job_environment,
    make_slots,
    refuse_sharing_exclusive_gpus,
    visible_gpus,
    with_uuids,
)
from ersparse.sweep.progress_table import ProgressTable

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
kind = words["kind"]
if kind == "fail":
    print("out of luck")
    sys.exit(1)
if kind == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if kind == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)
if kind == "slow":
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        write(state="preempted")
        sys.exit(130)
if kind == "shared":
    from pathlib import Path
    from ersparse.storage.locks import HeartbeatLock, LockHeld
    print("a message of an earlier stage", flush=True)
    os.makedirs(folder, exist_ok=True)
    lock = HeartbeatLock(Path(folder) / ".lock")
    try:
        lock.acquire()
    except LockHeld:
        sys.exit(print("folder: in use on node7; wait for it, or stop it") or 2)
    print("training", flush=True)
    time.sleep(0.2)
    write(state="done")
    print("a message of a later stage", flush=True)
    lock.release()
    sys.exit(0)
if kind == "killed when done":
    write(state="done")
    os.kill(os.getpid(), signal.SIGKILL)
write(state="done", said=say(), cores=sorted(os.sched_getaffinity(0)))
"""


@pytest.fixture(autouse=True)
def scripts(monkeypatch, tmp_path):
    (tmp_path / "job.py").write_text(SCRIPT)
    monkeypatch.setattr(process, "COMMAND", [str(tmp_path / "job.py")])


@pytest.fixture
def job(tmp_path):
    def make(name, kind="work", devices=1, gpu=False, fresh=False):
        folder = tmp_path / "root" / "runs" / name / "s0"
        words = (f"kind={kind}", f"folder={folder}")
        return Job(words, folder, tmp_path / "root", devices, gpu, epochs=3, fresh=fresh)

    return make


def cpu(count):
    cores = sorted(os.sched_getaffinity(0))
    return [Slot((cores[n % len(cores)],)) for n in range(count)]


def run(jobs, slots=2, time_limit=None, arguments=()):
    pool = Pool(jobs, cpu(slots) if isinstance(slots, int) else slots, time_limit, arguments)
    return pool, pool.run(lambda: None)


def record(job):
    return json.loads((job.folder / "run.json").read_text())


def test_a_failed_job_does_not_stop_the_others(job, capsys):
    jobs = [job("a"), job("b", "fail"), job("c", "crash"), job("d")]
    pool = Pool(jobs, cpu(2), None)
    with ProgressTable(pool) as table:
        status = pool.run(table.update)
    assert status == 1
    assert [(job_state.state, job_state.reason) for job_state in pool.states] == [
        ("done", ""),
        ("failed", "out of luck"),
        ("failed", f"killed by signal {signal.SIGSEGV:d}"),
        ("done", ""),
    ]
    printed = capsys.readouterr().out
    assert "failed  runs/b/s0: out of luck\n        log: " in printed
    assert printed.splitlines()[-1] == "4 jobs on 2 slots: 2 done, 2 failed"
    assert jobs[1].log.read_text() == "out of luck\n" and not jobs[0].log.exists()


def test_a_notebook_that_claims_a_terminal_gets_plain_lines(job, monkeypatch, capsys):
    """Jupyter sets FORCE_COLOR for its commands, whose output is a pipe: each redrawing would be a table of its own."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    pool = Pool([job("a")], cpu(1), None)
    with ProgressTable(pool) as table:
        pool.states[0].state = "done"
        table.update()
    assert table.console.is_terminal and table.live is None
    assert capsys.readouterr().out.count("runs/a/s0") == 1


def test_the_live_table_fits_the_screen_and_prints_reasons_without_markup(job, monkeypatch):
    """Of many jobs, the running ones and the summary stay visible."""
    pool = Pool([job(f"job{n}", "fail" if n < 9 else "work") for n in range(40)], cpu(2), None)
    table = ProgressTable(pool)
    for job_state in pool.states[:9]:
        job_state.state, job_state.reason = "failed", "[/nowhere] must lie in [0, 1)"
    for job_state in pool.states[9:]:
        job_state.state = "running"
    console = Console(width=100, height=24, record=True, file=io.StringIO())
    table.console = console
    console.print(table.render())
    lines = console.export_text().splitlines()
    assert len(lines) <= 24 and lines[-1].startswith("40 jobs on 2 slots: 31 running, 9 failed")
    assert lines[-2].startswith("running   runs/job39/s0")
    for job_state in pool.states[9:]:
        job_state.state = "waiting"
    console.print(table.render())
    assert "[/nowhere] must lie in [0" in console.export_text()


def test_a_finished_run_is_skipped_without_a_process(job):
    jobs = [job("a"), job("b")]
    run(jobs[:1])
    jobs[0].folder.joinpath("run.json").write_text('{"state": "done", "untouched": 1}')
    pool, status = run(jobs)
    assert status == 0 and [job_state.done_before for job_state in pool.states] == [True, False]
    assert record(jobs[0])["untouched"] == 1
    pool, _ = run([job("a", fresh=True)])
    assert not pool.states[0].done_before and "untouched" not in record(jobs[0])


def test_a_successful_sweep_leaves_no_logs(job, tmp_path):
    run([job("a")])
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["runs"]


def test_a_job_gets_its_share_of_the_cores_and_no_variables_of_other_launchers(job, monkeypatch):
    for key in ("WORLD_SIZE", "PL_GLOBAL_SEED", "MASTER_ADDR"):
        monkeypatch.setenv(key, "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = job("a")
    run([made], arguments=["hydra.searchpath=[x]"])
    said = record(made)["said"]
    assert said["words"][2:] == ["hydra.searchpath=[x]", "hydra.mode=RUN"]
    assert said | {"words": 0} == {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES"), "OMP_NUM_THREADS": "1", "WORLD_SIZE": None,
        "PL_GLOBAL_SEED": None, "MASTER_ADDR": None, "words": 0,
    }  # fmt: skip


def test_jobs_are_spread_over_the_gpus(job):
    slots = [Slot((0,), "3"), Slot((0,), "7")]
    jobs = [job("a", gpu=True), job("b", gpu=True), job("both", gpu=True, devices=2)]
    _, status = run(jobs, slots)
    assert status == 0
    given = [record(each)["said"]["CUDA_VISIBLE_DEVICES"] for each in jobs]
    assert sorted(given[:2]) == ["3", "7"] and sorted(given[2].split(",")) == ["3", "7"]


def test_a_job_is_interrupted_at_the_time_limit(job):
    pool, status = run([job("a", "slow"), job("b")], time_limit=1.0)
    assert status == 1 and [job_state.state for job_state in pool.states] == ["failed", "done"]
    assert pool.states[0].reason == "stopped at the time limit of 1 s"
    assert record(pool.states[0].job)["state"] == "preempted", "it was asked before it was killed"


def test_a_job_that_ignores_the_interrupt_is_killed(job, monkeypatch):
    monkeypatch.setattr(pools, "GRACE_PERIOD", 0.3)
    began = time.monotonic()
    pool, status = run([job("a", "stubborn")], time_limit=0.5)
    assert status == 1 and time.monotonic() - began < 20
    assert pool.states[0].process.popen.returncode == -signal.SIGKILL


def test_ctrl_c_interrupts_the_jobs_and_starts_no_more(job):
    jobs = [job("a", "slow"), job("b", "slow"), job("c")]
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    pool, status = run(jobs)
    timer.join()
    assert status == 130
    assert [job_state.state for job_state in pool.states] == ["stopped", "stopped", "waiting"]
    assert record(jobs[0])["state"] == "preempted" and not jobs[2].folder.exists()


def test_a_job_whose_folder_is_in_use_waits_while_others_run(job, monkeypatch, capsys):
    monkeypatch.setattr(pools, "HELD_POLL_INTERVAL", 0.1)
    jobs = [job("a"), job("b")]
    held = ExitStack()
    held.enter_context(RunFolder(jobs[0].folder).acquire())
    pool = Pool(jobs, cpu(1), None)
    table = ProgressTable(pool)

    def look():
        table.update()
        if pool.states[1].state == "done" and pool.states[0].state == "held":
            held.close()

    assert pool.run(look) == 0
    printed = capsys.readouterr().out
    assert "held    runs/a/s0  waiting for another process" in printed
    assert printed.index("done    runs/b/s0") < printed.index("done    runs/a/s0")


def test_a_run_that_another_process_finishes_is_not_repeated(job, monkeypatch):
    monkeypatch.setattr(pools, "HELD_POLL_INTERVAL", 0.1)
    made = job("a", "fail")
    held = ExitStack()
    held.enter_context(RunFolder(made.folder).acquire())

    def finish():
        (made.folder / "run.json").write_text('{"state": "done"}')
        held.close()

    assert Pool([made], cpu(1), None).run(finish) == 0


def test_two_sweeps_over_one_root_call_no_finished_job_failed(job, monkeypatch, tmp_path):
    """Each job is done once, and the other sweep waits for it, whichever host it is on."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(pools, "HELD_POLL_INTERVAL", 0.1)
    monkeypatch.setattr(pools.run_json, "in_use", lambda folder: False)  # both start a job before either has its lock
    jobs = [job(name, "shared") for name in "abc"]
    first, second = Pool(jobs, cpu(2), None), Pool(jobs, cpu(2), None)
    other, statuses = threading.Thread(target=lambda: statuses.append(second.run(lambda: None))), []
    other.start()
    statuses.append(first.run(lambda: None))
    other.join()
    assert statuses == [0, 0], [(state.job.name, state.reason) for state in first.states + second.states]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["runs"], "no log is left"


def test_a_job_that_is_killed_after_its_run_is_done_is_done(job):
    pool, status = run([job("a", "killed when done")])
    assert status == 0 and [job_state.state for job_state in pool.states] == ["done"]


def test_a_failed_job_that_another_sweep_repeats_successfully_is_done(job):
    jobs = [job("a", "fail"), job("b", "slow")]

    def repeat():
        if pool.states[0].state == "failed":
            jobs[0].folder.mkdir(parents=True, exist_ok=True)
            (jobs[0].folder / "run.json").write_text('{"state": "done"}')

    pool = Pool(jobs, cpu(2), time_limit=0.5)
    assert pool.run(repeat) == 1
    assert [job_state.state for job_state in pool.states] == ["done", "failed"]


def test_a_job_of_another_sweep_on_another_host_is_waited_for(job, monkeypatch):
    """Its heartbeat tells, where file locks do not span hosts."""
    monkeypatch.setattr(pools, "HELD_POLL_INTERVAL", 0.1)
    made = job("a", "fail")
    made.folder.mkdir(parents=True)
    (made.folder / ".lock").write_text("1\nelsewhere\nanother boot\n0123\n")
    pool, seen = Pool([made], cpu(1), None), []

    def finish():
        seen.append(pool.states[0].state)
        (made.folder / "run.json").write_text('{"state": "done"}')
        (made.folder / ".lock").write_text("")

    assert pool.run(finish) == 0 and seen[0] == "held"


# ---- Slots ---------------------------------------------------------------------------------------------------------


def test_slots_share_gpus_and_cores():
    assert make_slots(None, 1, [], range(4), 64) == [Slot((0,)), Slot((1,)), Slot((2,)), Slot((3,))]
    assert make_slots(2, 1, [], range(4), 64) == [Slot((0, 1)), Slot((2, 3))]
    assert make_slots(None, 1, [], range(8), 4.5) == [Slot((0, 1, 2, 3)), Slot((4, 5, 6, 7))]
    assert make_slots(3, 1, [], range(2), 64) == [Slot((0,)), Slot((1,)), Slot((0,))]
    assert make_slots(None, 2, ["0", "5"], range(8), 1) == [
        Slot((0, 1), "0"), Slot((2, 3), "5"), Slot((4, 5), "0"), Slot((6, 7), "5"),
    ]  # fmt: skip
    assert make_slots(1, 2, ["0", "5"], range(2), 64) == [Slot((0, 1), "0")]


def test_fewer_jobs_than_slots_share_all_cores(monkeypatch):
    assert make_slots(None, 1, [], range(4), 64, needed=1) == [Slot((0, 1, 2, 3))]
    assert make_slots(None, 1, [], range(4), 64, needed=2) == [Slot((0, 1)), Slot((2, 3))]
    assert make_slots(4, 1, [], range(2), 64, needed=1) == [Slot((0, 1))], "also of a number that was asked for"
    assert len(make_slots(None, 1, [], range(4), 64, needed=9)) == 4
    assert make_slots(None, 2, ["0", "5"], range(8), 64, needed=2) == [Slot((0, 1, 2, 3), "0"), Slot((4, 5, 6, 7), "5")]
    seven = make_slots(None, 1, [], range(7), 64, needed=2)
    assert [len(slot.cores) for slot in seven] == [3, 3], "results may depend on the number of threads"


@pytest.mark.parametrize("names, devices, done, expected", [
    ("a", 1, "", [4]), ("ab", 1, "", [2, 2]), ("ab", 1, "a", [4]), ("a", 2, "", [2, 2]), ("ab", 2, "", [1] * 4),
    ("abcdef", 1, "", [1] * 4), ("ab", 1, "ab", [4]),
])  # fmt: skip
def test_slots_are_counted_by_the_jobs_that_are_left(job, monkeypatch, names, devices, done, expected):
    monkeypatch.setattr(slot_module, "machine_resources", lambda: ([*range(4)], 64.0))
    jobs = [job(name, devices=devices) for name in names]
    for each in jobs:
        if each.folder.parent.name in done:
            each.folder.mkdir(parents=True)
            (each.folder / "run.json").write_text('{"state": "done"}')
    assert [len(slot.cores) for slot in LocalLauncher().slots_for(jobs)] == expected


@pytest.mark.parametrize("slots, jobs_per_gpu, gpus, message", [
    (1, 1, "01", "hydra.launcher.slots=1: must be at least trainer.devices=2"),
    (1, 2, "0", "trainer.devices=2: must be at most 1, the number of GPUs here"),
    (None, 2, "0", "trainer.devices=2: must be at most 1, the number of GPUs here"),
    (8, 1, "0", "trainer.devices=2: must be at most 1, the number of GPUs here"),
])  # fmt: skip
def test_a_dry_run_refuses_too_few_slots_and_gpus_as_the_sweep_does(
    job, monkeypatch, slots, jobs_per_gpu, gpus, message
):
    """So does a search, whose first trials may be done before."""
    monkeypatch.setattr(slot_module, "visible_gpus", lambda _: list(gpus))
    launcher, jobs = LocalLauncher(slots, jobs_per_gpu, mps=False), [job("a", gpu=True), job("b", devices=2, gpu=True)]
    for refused in (launcher.dry_run, launcher.run, launcher.check_search):
        with pytest.raises(UserError, match=f"^{message}$"):
            refused(jobs)
    for each in jobs:
        each.folder.mkdir(parents=True)
        (each.folder / "run.json").write_text('{"state": "done"}')
    with pytest.raises(UserError, match=f"^{message}$"):
        launcher.check_search(jobs)


def test_a_single_job_computes_on_all_cores(job, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made, cores = job("a"), sorted(os.sched_getaffinity(0))
    run([made], LocalLauncher().slots_for([made]))
    assert record(made)["cores"] == cores and record(made)["said"]["OMP_NUM_THREADS"] == str(len(cores))


def test_allocation_of_slots_to_ranks():
    gpus = make_slots(None, 2, ["0", "5"], range(4), 64)
    assert allocate(2, gpus, gpus) == [gpus[0], gpus[1]]
    assert allocate(2, [gpus[0], gpus[2]], gpus) is None, "two shares of one GPU are not two GPUs"
    assert allocate(3, gpus, gpus) is None
    cores = make_slots(2, 1, [], range(4), 64)
    assert allocate(2, cores, cores) == cores and allocate(2, cores[:1], cores) is None
    assert allocate(2, cores[:1], cores[:1]) == cores[:1], "ranks share the only slot"


def test_threads_are_cores_divided_by_ranks():
    slot = Slot((0, 1, 2, 3))
    assert job_environment({}, [slot], 1)["OMP_NUM_THREADS"] == "4"
    assert job_environment({}, [slot], 2)["OMP_NUM_THREADS"] == "2"
    assert job_environment({"OMP_NUM_THREADS": "1"}, [slot], 1)["OMP_NUM_THREADS"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in job_environment({}, [slot], 1)


def test_durations():
    assert [format_duration(seconds) for seconds in (0.4, 59.6, 3600)] == ["0:00:00", "0:01:00", "1:00:00"]


@pytest.mark.parametrize(
    "names, seen, expected",
    [
        (",".join(f"MIG-{number}" for number in range(7)), 1, [f"MIG-{number}" for number in range(7)]),
        ("GPU-aaa,GPU-bbb", 2, ["GPU-aaa", "GPU-bbb"]),
        ("0,2,3", 3, ["0", "2", "3"]),
        ("0,9", 1, ["0"]),  # CUDA ignores names from the first unknown one on
        ("", 0, []),
        ("", 1, ["MIG-x/1/0", "MIG-y"]),  # from nvidia-smi
    ],
)
def test_gpus_and_mig_instances_are_all_found(names, seen, expected, monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-a)'\n"
        "echo '  MIG 1g.5gb Device 0: (UUID: MIG-x/1/0)'\necho '  MIG 1g.5gb Device 1: (UUID: MIG-y)'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": names} if names else {}) == expected


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Puts nvidia-smi and nvidia-cuda-mps-control on the PATH; the latter notes how it is called, and may fail."""

    def put(status=0):
        monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
        told = f'echo "$1 $(cat) $CUDA_VISIBLE_DEVICES $CUDA_MPS_PIPE_DIRECTORY" >> {tmp_path}/told\n'
        scripts = {
            "nvidia-smi": "printf '0, GPU-a\\n1, GPU-b\\n'\n",
            mps.CONTROL: f"{told}echo no permission\nexit {status}\n",
        }
        for name, script in scripts.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return lambda: [line.split() for line in (tmp_path / "told").read_text().splitlines()]

    return put


def test_a_daemon_shares_the_gpus_of_a_sweep_and_ends_with_it(tools, monkeypatch):
    told = tools()
    assert with_uuids(["1", "GPU-c"]) == ["GPU-b", "GPU-c"]
    launcher = LocalLauncher(jobs_per_gpu=2)
    gpus = with_uuids(["0", "1"])
    pool = Pool([], make_slots(None, 2, gpus, [0, 1], 8), None)
    with pytest.raises(KeyboardInterrupt), launcher._sharing(pool):
        folder = pool.variables["CUDA_MPS_PIPE_DIRECTORY"]
        started = []
        monkeypatch.setattr("ersparse.sweep.local.pool.Process", lambda *arguments: started.append(arguments[1]))
        pool._start_process(SimpleNamespace(overrides=[], devices=1, epochs=1), pool.slots[:1], None)
        raise KeyboardInterrupt  # as by Ctrl-C
    assert started[0]["CUDA_MPS_PIPE_DIRECTORY"] == folder and started[0]["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert told() == [["-d", "GPU-a,GPU-b", folder], ["quit", "GPU-a,GPU-b", folder]]
    assert not os.path.exists(folder)


@pytest.mark.parametrize(
    "jobs_per_gpu, gpus, wanted, variables",
    [
        (1, ["GPU-a"], "auto", {}),
        (2, ["GPU-a"], False, {}),
        (2, ["MIG-a"], "auto", {}),
        (2, [], "auto", {}),
        (2, ["GPU-a"], "auto", {"CUDA_MPS_PIPE_DIRECTORY": "/of/another"}),
    ],
)
def test_no_daemon_is_started_where_there_is_nothing_to_share(
    jobs_per_gpu, gpus, wanted, variables, tools, monkeypatch, tmp_path
):
    tools()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pool = Pool([], make_slots(None, jobs_per_gpu, gpus, [0, 1], 8), None)
    with LocalLauncher(jobs_per_gpu=jobs_per_gpu, mps=wanted)._sharing(pool):
        assert pool.variables == {}
    assert not (tmp_path / "told").exists()


def test_a_daemon_that_does_not_start_is_told_and_jobs_take_turns(tools, caplog):
    told = tools(status=1)
    with mps.shared_gpus(True, ["0"]) as variables:
        assert variables == {}
    assert len(told()) == 1 and told()[0][0] == "-d" and len(told()[0]) == 2  # no number of a GPU
    assert "nvidia-cuda-mps-control does not start (no permission); jobs take turns" in caplog.text


@pytest.mark.parametrize(
    "mode, mps, refused",
    [
        ("Exclusive_Process", {}, True),
        ("Default", {}, False),
        ("Exclusive_Process", {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mps"}, False),
    ],
)
def test_a_gpu_that_admits_one_process_is_not_shared(mode, mps, refused, monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '0, {mode}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    refuse_sharing_exclusive_gpus(1, mps)
    with pytest.raises(UserError, match="jobs_per_gpu=2: must be 1, since GPU 0") if refused else ExitStack():
        refuse_sharing_exclusive_gpus(2, mps)
