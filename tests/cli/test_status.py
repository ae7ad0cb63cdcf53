"""ersparse status and ersparse retry read run.json and the lock only."""

import json
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from conftest import ROOT

from ersparse import cli
from ersparse.cli.status import run_statuses
from ersparse.storage.run_folder import RunFolder
from ersparse.sweep.durations import format_age


def write(folder, state, **changes):
    folder.mkdir(parents=True)
    updated = (datetime.now(UTC) - timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = {
        "schema": 1, "state": state, "command": f"python launch.py seed={folder.name[1:]} paths.root=elsewhere",
        "config": {"trainer": {"devices": 1, "num_nodes": 1, "accelerator": "cpu"}},
        "progress": {"epoch": 2, "epochs": 4}, "updated": updated, "metrics": {}, "error": None,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record | changes))
    return folder


@pytest.fixture
def tree(tmp_path):
    runs = tmp_path / "outputs" / "runs" / "net"
    write(runs / "s0", "done", metrics={"test/acc": 0.9876})
    write(runs / "s1", "running")
    write(runs / "s2", "running")
    write(runs / "s3", "failed", error="RuntimeError: out\nof luck")
    write(runs / "s4", "preempted")
    (runs / "s5").mkdir()
    (runs / "s5" / "run.json").write_text("{")
    with RunFolder(runs / "s1").acquire():
        yield tmp_path / "outputs"


@pytest.fixture
def ersparse(monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(sys, "argv", ["ersparse", *map(str, words)])
        status = cli.main()
        return status, capsys.readouterr()

    return command


def test_states_of_runs(tree):
    rows = run_statuses(tree)
    assert [(row.folder.rsplit("/", 1)[1], row.state) for row in rows] == [
        ("s0", "done"), ("s1", "running"), ("s2", "interrupted"), ("s3", "failed"), ("s4", "preempted"),
    ]  # fmt: skip
    assert rows[0].accuracy == 0.9876 and rows[1].accuracy is None
    assert rows[3].error == "RuntimeError: out of luck"
    assert all(295 < row.age < 310 and (row.epoch, row.epochs) == (2, 4) for row in rows)


def test_status_takes_no_lock_and_creates_no_file(tree):
    before = sorted(tree.rglob("*"))
    run_statuses(tree)
    assert sorted(tree.rglob("*")) == before
    with RunFolder(tree / "runs" / "net" / "s2").acquire():
        assert run_statuses(tree)[2].state == "running"


def test_the_status_table(ersparse, tree):
    status, printed = ersparse("status", tree)
    lines = printed.out.splitlines()
    assert status == 0 and len(lines) == 7
    assert lines[1].split() == ["done", "2/4", "0.9876", "5", "min", "runs/net/s0"]
    assert lines[4].endswith("runs/net/s3  RuntimeError: out of luck")
    assert lines[-1] == "5 runs: 1 done, 1 running, 1 interrupted, 1 failed, 1 preempted"


def test_status_as_json(ersparse, tree):
    _, printed = ersparse("status", tree, "--json")
    assert [row["state"] for row in json.loads(printed.out)][1:3] == ["running", "interrupted"]


def test_ctrl_c_ends_the_watching(ersparse, tree, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    status, printed = ersparse("status", tree, "--watch")
    assert status == 0 and "5 runs" in printed.out


def test_a_missing_folder_is_refused(ersparse, tmp_path):
    for command in ("status", "retry"):
        status, printed = ersparse(command, tmp_path / "nowhere")
        assert status == 2 and printed.err == f"{tmp_path}/nowhere: no such folder\n"


def test_status_is_fast_and_imports_no_torch(tmp_path):
    """1000 runs take at most half a second of CPU time."""
    layers = [{"name": f"layer{n}.weight", "shape": [64, 64, 3, 3], "size": 36864, "density": 0.1} for n in range(22)]
    for number in range(1000):
        write(tmp_path / f"net{number}" / "s0", "running" if number % 100 == 0 else "done", layers=layers)
    began = time.process_time()
    assert len(run_statuses(tmp_path)) == 1000 and time.process_time() - began < 0.5
    code = f"import sys; sys.argv = ['ersparse', 'status', {str(tmp_path)!r}]; from ersparse.cli import main; main(); "
    code += "assert not {'torch', 'pytorch_lightning'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1000 runs: 10 interrupted, 990 done"


def test_ages():
    assert [format_age(seconds) for seconds in (-1, 12, 300, 10800, 200000, float("nan"))] == [
        "0 s", "12 s", "5 min", "3 h", "2 d", "",
    ]  # fmt: skip


def test_retry_prints_the_commands_of_unfinished_runs(ersparse, tree):
    status, printed = ersparse("retry", tree)
    assert status == 0
    words = [shlex.split(line) for line in printed.out.splitlines()]
    assert [line[2:] for line in words] == [[f"seed={seed}", f"paths.root={tree}"] for seed in (2, 3, 4)]
    assert all(line[:2] == ["python", str(ROOT / "launch.py")] for line in words)


FOREIGN = [
    {"name": "of another program"}, {"state": 3}, {"state": "done", "progress": "x"}, {"state": "done", "metrics": [1]},
    {"state": "done", "metrics": {"test/acc": "x"}}, {"state": "done", "config": 3}, {"state": "done", "schema": "9"},
    {"state": "failed", "layers": "x"}, [], "text",
]  # fmt: skip


@pytest.mark.parametrize("record", FOREIGN, ids=str)
def test_a_run_json_of_another_program_is_skipped(ersparse, tree, record):
    (tree / "runs" / "net" / "s5" / "run.json").write_text(json.dumps(record))
    for command in (["status", tree], ["retry", tree], ["status", tree, "--json"]):
        status, printed = ersparse(*command)
        assert status == 0 and "s5" not in printed.out
    assert ersparse("export", tree / "runs" / "net" / "s5")[0] == 2


@pytest.mark.parametrize("changes", [
    {"command": ""}, {"command": None}, {"command": "python"}, {"command": "python launch.py 'x"},
])  # fmt: skip
def test_a_run_without_a_command_cannot_be_repeated(ersparse, tmp_path, changes):
    write(tmp_path / "runs" / "a" / "s0", "failed", **changes)
    status, printed = ersparse("retry", tmp_path)
    assert status == 0 and "cannot be run again by itself; it was made by" in printed.err


def test_a_theory_run_is_repeated(ersparse, tmp_path):
    """Its configuration has no trainer."""
    command = "python launch.py experiment=theory_weak"
    write(tmp_path / "theory_weak" / "a" / "s0", "failed", config={"method": {"name": "weak"}}, command=command)
    status, printed = ersparse("retry", tmp_path)
    assert status == 0 and "experiment=theory_weak" in printed.out


def test_a_time_without_a_zone_is_no_error(ersparse, tmp_path):
    write(tmp_path / "a" / "s0", "done", updated="2026-11-23T10:00:00")
    assert ersparse("status", tmp_path)[0] == 0


def test_retry_skips_runs_without_a_command_of_their_own(ersparse, tmp_path):
    write(tmp_path / "runs" / "a" / "s0", "failed", command="python my_study.py")
    write(tmp_path / "runs" / "b" / "s0", "failed", command="python launch.py -m seed=0,1")
    status, printed = ersparse("retry", tmp_path)
    assert status == 0 and printed.out == "" and printed.err.count("cannot be run again by itself") == 2


@pytest.mark.slow
def test_retry_runs_unfinished_runs(ersparse, launch, tmp_path):
    launch("method=draw", "seed=0")
    launch("method=draw", "seed=1")
    _, other = sorted((tmp_path / "outputs").rglob("run.json"))
    record = json.loads(other.read_text())
    other.write_text(json.dumps(record | {"state": "failed"}))
    (tmp_path / "outputs").rename(tmp_path / "moved")
    status, printed = ersparse("retry", tmp_path / "moved", "--run")
    assert status == 0 and printed.out.splitlines()[-1].endswith("1 done")
    (again,) = (tmp_path / "moved").rglob("s1/run.json")
    assert json.loads(again.read_text())["state"] == "done" and not (tmp_path / "outputs").exists()
