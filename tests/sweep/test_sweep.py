"""Sweeps from the command line: dry runs, results, and recovery after they are killed."""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import TINY

SLOW = ["model.width=0.25", "trainer.max_epochs=40", "dataset.batch_size=128"]
FAILS = ["or", "dataset=cifar10", "dataset.root=/nowhere", "dataset.download=false", "seed=0"]


@pytest.fixture
def preset(tmp_path):
    """Writes a preset to a folder, and returns the overrides that select it."""

    def write(name, text):
        (tmp_path / "conf" / "experiment").mkdir(parents=True, exist_ok=True)
        head = f"# @package _global_\nexperiment: {name}\n"
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(head + text)
        return [f"hydra.searchpath=[file://{tmp_path}/conf]", f"experiment={name}"]

    return write


def records(root):
    return {path.parent.relative_to(root): json.loads(path.read_text()) for path in root.rglob("run.json")}


def processes_of_this_test(tmp_path):
    """Processes whose command line names this test's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(tmp_path) in path.read_bytes().decode(errors="replace") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            pass
    return found


def gone(tmp_path, seconds=5.0):
    """Whether every process of this test ends within a few seconds."""
    end = time.monotonic() + seconds
    while processes_of_this_test(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes_of_this_test(tmp_path)


# ---- Dry runs ------------------------------------------------------------------------------------------


def listed(printed):
    """Run folders of a dry run's lines, from experiment on, without the hash: their last line counts them."""
    lines = printed.splitlines()
    folders = [next(word for word in line.split() if "/outputs/" in word) for line in lines if line.startswith("new ")]
    assert lines[-1] == f"{len(folders)} jobs"
    return ["/".join([place.rsplit("-", 1)[0], seed]) for *_, place, seed in (folder.split("/") for folder in folders)]


def test_a_grid_is_listed(launch, tmp_path):
    status, printed = launch("-m", "dry_run=true", "seed=0,1", "sparsity=er,erk")
    assert status == 0 and listed(printed) == [
        "resnet20-digits-er0.9-fixed/s0", "resnet20-digits-erk0.9-fixed/s0",
        "resnet20-digits-er0.9-fixed/s1", "resnet20-digits-erk0.9-fixed/s1",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_zipped_axes_are_listed(launch, tmp_path):
    status, printed = launch("dry_run=true", "model,sparsity.level=[vgg16,0.5],[vgg19,0.95]", "seed=0,1")
    assert status == 0 and listed(printed) == [
        "vgg16-digits-balanced0.5-fixed/s0", "vgg16-digits-balanced0.5-fixed/s1",
        "vgg19-digits-balanced0.95-fixed/s0", "vgg19-digits-balanced0.95-fixed/s1",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_duplicate_jobs_of_a_union_are_merged(launch, tmp_path):
    words = "dry_run=true seed=0,1 sparsity.level=0.5,0.9 or sparsity=dense or seed=1 sparsity.level=0.9"
    status, printed = launch("-m", *words.split())
    assert status == 0 and listed(printed) == [
        "resnet20-digits-balanced0.5-fixed/s0", "resnet20-digits-balanced0.9-fixed/s0",
        "resnet20-digits-balanced0.5-fixed/s1", "resnet20-digits-balanced0.9-fixed/s1",
        "resnet20-digits-dense-fixed/s0", "resnet20-digits-dense-fixed/s1",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []


PRESET = """
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      - {seed: [0, 1], "model,sparsity.level": [[vgg16, 0.5], [vgg19, 0.95]]}
      - {seed: 0, sparsity: dense}
"""


@pytest.mark.parametrize("flag", [[], ["-m"]])
def test_a_preset_with_a_sweep_is_listed(launch, preset, flag):
    words = preset("pairs", PRESET)
    status, printed = launch(*flag, "dry_run=true", *words)
    assert status == 0 and listed(printed) == [
        "vgg16-digits-balanced0.5-fixed/s0", "vgg19-digits-balanced0.95-fixed/s0",
        "vgg16-digits-balanced0.5-fixed/s1", "vgg19-digits-balanced0.95-fixed/s1",
        "resnet20-digits-dense-fixed/s0",
    ]  # fmt: skip
    status, printed = launch(*flag, "dry_run=true", *words, "seed=7")
    assert listed(printed) == [
        "vgg16-digits-balanced0.5-fixed/s7", "vgg19-digits-balanced0.95-fixed/s7", "resnet20-digits-dense-fixed/s7",
    ]  # fmt: skip


def test_the_sweeps_of_several_presets_are_listed(launch, preset):
    preset("one", "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}\n")
    search, _ = preset("two", "hydra: {mode: MULTIRUN, sweeper: {params: {model: 'vgg16,vgg19'}}}\n")
    status, printed = launch("-m", "dry_run=true", search, "experiment=one,two")
    assert status == 0 and listed(printed) == [
        "resnet20-digits-balanced0.9-fixed/s0", "resnet20-digits-balanced0.9-fixed/s1",
        "vgg16-digits-balanced0.9-fixed/s0", "vgg19-digits-balanced0.9-fixed/s0",
    ]  # fmt: skip


REFUSED = [
    ("sparsity.level=0.5,1.2", "sparsity.level=1.2: must lie in [0, 1)"),
    ("sead=0,1", "sead: no such key; did you mean seed?"),
    ("model=vgg16,vgg17", "model=vgg17: no such option"),
    ("trainer.devices=1,2", "trainer.devices=1,2: is no part of a run's identity, both would be runs/resnet20"),
    ("seed=0,1 logger=csv,tensorboard", "logger.name=csv,tensorboard: is no part of a run's identity"),
    ("paths.root=a,b", "paths.root=a,b: is no part of a run's identity"),
    ("hydra/launcher=basic seed,trainer.devices=[0,1],[1,2]", "trainer.devices=2: must be 1 with hydra/launcher=basic"),
    ("hydra.launcher.slots=0 seed=0,1", "hydra.launcher.slots=0: must lie above 0"),
    ("hydra.launcher.slots=1.5 seed=0,1", "hydra.launcher.slots=1.5: must lie above 0, and be an integer"),
    ("hydra.launcher.slotz=2 seed=0,1", "hydra.launcher.slotz: no such key"),
    ("seed=0,1 trainer.devices=1000", "trainer.devices=1000: must lie in [1, "),
]


@pytest.mark.parametrize("line, message", REFUSED, ids=[line for line, _ in REFUSED])
def test_an_invalid_job_is_refused_before_the_first_starts(launch, tmp_path, line, message):
    status, printed = launch("-m", "method=fixed", *line.split())
    assert status == 2 and printed.startswith(message) and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_several_devices_are_refused_with_hydras_own_sweeper(launch, tmp_path):
    status, printed = launch("-m", "hydra/sweeper=basic", "hydra/launcher=basic", "trainer.devices=2")
    assert status == 2 and printed.startswith("trainer.devices=2: must be 1 with hydra/launcher=basic")
    assert not list(tmp_path.rglob("run.json"))


def test_a_key_outside_the_identity_may_be_zipped(launch):
    status, printed = launch("dry_run=true", "seed,trainer.devices=[0,1],[1,2]", "logger=csv")
    assert status == 0 and len(listed(printed)) == 2


@pytest.mark.slow
def test_400_jobs_are_checked_in_ten_seconds(launch):
    """CPU time of this process, so that other processes do not matter."""
    words = ["model=resnet20,vgg16", "sparsity=er,erk,balanced,uniform", "sparsity.level=0.5,0.8,0.9,0.95,0.99"]
    began = time.process_time()
    status, printed = launch("-m", "dry_run=true", *words, "seed=range(0,10)")
    assert status == 0 and printed.splitlines()[-1] == "400 jobs"
    assert time.process_time() - began < 10


# ---- Results of a sweep -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_that_is_killed_repeatedly_gives_the_results_of_an_undisturbed_one(process, launch, tmp_path):
    """SIGKILL of the sweep at random moments; ERSPARSE_KILLS=10 for 24 jobs and more of them."""
    kills = int(os.environ.get("ERSPARSE_KILLS", "3"))
    seeds = 23 if kills > 3 else 3
    words = [*TINY, "trainer.max_epochs=3"]
    grid = ["-m", f"paths.root={tmp_path}/killed", *words, f"seed=range(0,{seeds})", *FAILS]
    landed = 0
    for _ in range(kills):
        sweep = process(*grid)
        sweep.stdout.readline()  # the first job starts
        time.sleep(random.uniform(0, 3.5 * seeds / kills))
        landed += sweep.poll() is None
        sweep.send_signal(signal.SIGKILL)
        assert gone(tmp_path), "a job outlived its sweep"
        sweep.communicate()
    assert landed > kills // 2, "they were to be killed while they worked"
    sweep = process(*grid)
    printed, _ = sweep.communicate(timeout=1200)
    assert sweep.returncode == 1, printed
    assert printed.splitlines()[-1].split(": ")[1].endswith("1 failed") and "dataset.root=/nowhere" in printed
    for seed in range(seeds):
        assert launch(*words, f"seed={seed}", f"paths.root={tmp_path}/undisturbed")[0] == 0
    disturbed, undisturbed = (records(tmp_path / name) for name in ("killed", "undisturbed"))
    assert len(disturbed) == seeds and set(disturbed) == set(undisturbed)
    for folder, record in disturbed.items():
        other = undisturbed[folder]
        assert record["state"] == other["state"] == "done"
        assert all(record[key] == other[key] for key in ("metrics", "mask_sha256", "layers", "progress", "hash"))
        for file in ("network.safetensors", "metrics.csv"):
            ours, theirs = (tmp_path / root / folder / file for root in ("killed", "undisturbed"))
            assert ours.read_bytes() == theirs.read_bytes()
    assert not list((tmp_path / "killed").rglob("*.partial"))
    assert gone(tmp_path)


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_at_a_checkpoint(process, tmp_path):
    sweep = process("-m", *SLOW, "seed=0,1,2")
    while not list(tmp_path.glob("outputs/runs/*/s1/checkpoints/epoch*")) and sweep.poll() is None:
        time.sleep(0.05)
    sweep.send_signal(signal.SIGINT)
    printed, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "the same command resumes" in printed and "Traceback" not in printed
    states = {folder.name: record["state"] for folder, record in records(tmp_path / "outputs").items()}
    assert states["s1"] == "preempted" and set(states.values()) == {"preempted"}
    assert gone(tmp_path)


@pytest.mark.slow
def test_draws_in_a_fork_server_equal_single_runs(process, launch, tmp_path):
    """The records are equal, and the fork server ends with the sweep."""
    sweep = process("-m", "method=draw", "seed=0,1,2,3", "model=resnet20,vgg16", "hydra.launcher.slots=1")
    printed, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, printed
    swept = records(tmp_path / "outputs")
    assert len(swept) == 8 and gone(tmp_path)
    launch("method=draw", "model=vgg16", "seed=3", f"paths.root={tmp_path}/alone")
    ((folder, alone),) = records(tmp_path / "alone").items()
    given = ("command", "updated", "config")
    assert {key: value for key, value in swept[folder].items() if key not in given} == {
        key: value for key, value in alone.items() if key not in given
    }


@pytest.mark.slow
def test_a_sweep_that_is_killed_while_it_draws_leaves_no_process(process, tmp_path):
    sweep = process("-m", "method=draw", "seed=range(0,100)", "hydra.launcher.slots=1")
    while not list(tmp_path.glob("outputs/runs/*/s1/run.json")) and sweep.poll() is None:
        time.sleep(0.02)
    family = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if descends(path, sweep.pid)]
    assert family, "the fork server and its job"
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    end = time.monotonic() + 10
    while any(status_of(pid) != "Z" for pid in family) and time.monotonic() < end:
        time.sleep(0.02)
    assert all(status_of(pid) == "Z" for pid in family)


def descends(path, ancestor):
    try:
        return f"ERSPARSE_PARENT={ancestor}".encode() in path.read_bytes().split(b"\0")
    except OSError:
        return False


def status_of(pid):
    """As in /proc; of a process that is gone as of one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


PROBE = """
import hashlib, os
from pathlib import Path
import pytorch_lightning as pl
from torch import distributed
from ersparse.methods.fixed import Fixed

class Count(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, index):
        there = distributed.get_world_size() if distributed.is_initialized() else 1
        assert trainer.world_size == there
        seed = trainer.default_root_dir.rsplit("s", 1)[1]
        path = Path(os.environ["PROBE"]) / f"s{seed}-of{trainer.world_size}-rank{trainer.global_rank}"
        with path.open("a") as file:
            for image in batch[0].float().cpu():
                file.write(f"{trainer.current_epoch} {hashlib.md5(image.numpy().tobytes()).hexdigest()}\\n")

class Probe(Fixed):
    def callbacks(self, plan):
        return [*super().callbacks(plan), Count()]
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
@pytest.mark.slow
def test_each_job_of_a_zipped_axis_gets_its_number_of_ranks(process, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "seen").mkdir()
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = ["method._target_=probe.Probe", "method.name=probe", "dataset.augment=false", "trainer.precision=32-true"]
    sweep = process(
        *TINY, "trainer.max_epochs=2", *words, "seed,trainer.devices=[0,1],[1,2]",
        env={"PYTHONPATH": paths, "PROBE": str(tmp_path / "seen")},
    )  # fmt: skip
    printed, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, printed
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"s0-of1-rank0", "s1-of2-rank0", "s1-of2-rank1"}
    alone, shared = (
        Counter(line for path in (tmp_path / "seen").glob(f"s{seed}-*") for line in path.read_text().splitlines())
        for seed in (0, 1)
    )
    assert alone == shared and alone.total() == 2 * 1437


@pytest.mark.slow
def test_of_four_simultaneous_commands_one_runs(process, tmp_path):
    """The others report that the folder is in use, and stop."""
    four = [process(*SLOW) for _ in range(4)]
    while sum(each.poll() is None for each in four) > 1:
        time.sleep(0.05)
    (winner,) = [each for each in four if each.poll() is None]
    for each in four:
        if each is not winner:
            assert each.returncode == 2 and "in use by another process" in each.communicate()[0]
    assert [record["state"] for record in records(tmp_path / "outputs").values()] == ["running"]
    winner.kill()
    winner.communicate()
