"""Runs on several ranks: the same masks and training as on one rank, and no process left behind."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import KILLED, ROOT, outcome, read, rows
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")

HERE = {"env": {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/runs")])}}
AS_NCCL = '''
import atexit, datetime, os
from torch import distributed

initialise, destroy = distributed.init_process_group, distributed.destroy_process_group


def destroy_together(*arguments):
    """As with NCCL, this is a collective operation of all ranks, in which one that is alone waits, here for a while."""
    try:
        distributed.monitored_barrier(timeout=datetime.timedelta(seconds=25))
    except RuntimeError:
        print("rank", distributed.get_rank(), "hangs in destroy_process_group", flush=True)
        os._exit(70)
    destroy(*arguments)


def initialise_and_destroy_at_exit(*arguments, **keywords):
    """As Lightning with NCCL."""
    initialise(*arguments, **keywords)
    atexit.register(lambda: distributed.is_initialized() and distributed.destroy_process_group())


distributed.init_process_group = initialise_and_destroy_at_exit
distributed.destroy_process_group = destroy_together
distributed.distributed_c10d._abort_process_group = destroy
'''
PLAIN = ["model._target_=plain.plain", "model.name=plain", "optimizer.lr=0.02"]
EXACT = ["trainer.precision=32-true", "trainer.max_epochs=2", "dataset.batch_size=128"]


@pytest.fixture
def as_nccl(tmp_path):
    """The environment of a run in which process groups are destroyed collectively, as with NCCL."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(AS_NCCL)
    return {"env": {"PYTHONPATH": os.pathsep.join([str(folder), HERE["env"]["PYTHONPATH"]])}}


def trained(process, root, *words, environment=HERE):
    run = process(f"paths.root={root}", *words, **environment)
    printed, _ = run.communicate(timeout=300)
    assert run.returncode == 0 and "Traceback" not in printed and "hangs" not in printed, printed
    (record,) = root.rglob("run.json")
    return record.parent


@pytest.mark.slow
def test_two_ranks_train_and_rewire_as_one_rank(process, launch, only_run, monkeypatch, tmp_path, as_nccl):
    """Weights agree up to the order of summation, on the same global batches, of which the last has 13 images.

    Every mask update drops and grows the same weights, so the gradients are those of all images. The ranks destroy
    their process group together, or none of them would end.
    """
    words = [*PLAIN, *EXACT, "dataset.validation=0.1"]
    words += ["method=rigl", "method.delta_t=4", "method.t_end=1", "sparsity.level=0.5", "method.drop=mest"]
    words += ["method.redistribute=gradient"]
    two = trained(process, tmp_path / "two", *words, "trainer.devices=2", environment=as_nccl)
    assert read(two)["state"] == "done"
    monkeypatch.syspath_prepend(ROOT / "tests/runs")
    status, printed = launch(*words)
    assert status == 0, printed
    one = only_run()
    assert read(one)["hash"] == read(two)["hash"]
    assert read(one)["mask_sha256"] == read(two)["mask_sha256"] != read(one)["source_mask_sha256"]
    assert (one / "rewiring.csv").read_text() == (two / "rewiring.csv").read_text()
    a, b = load_file(one / "network.safetensors"), load_file(two / "network.safetensors")
    assert a.keys() == b.keys() and any(name.endswith("_mask") for name in a)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    for first, second in zip(rows(one), rows(two), strict=True):
        assert first.keys() == second.keys() >= {"val/acc", "train/acc"}
        for figure in ("train/loss", "test/loss", "val/loss"):
            assert float(first[figure]) == pytest.approx(float(second[figure]), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["method=rigl", "method.delta_t=4", "method.t_end=1", "sparsity.level=0.5"]])
def test_two_ranks_with_sparse_execution_agree_with_masked_execution(process, tmp_path, words):
    words = [*PLAIN, *EXACT, *words, "trainer.devices=2"]
    masked = trained(process, tmp_path / "masked", *words)
    sparse = trained(process, tmp_path / "sparse", *words, "trainer.execution=sparse")
    assert read(sparse)["config"]["trainer"]["execution"] == "sparse"
    a, b = load_file(masked / "network.safetensors"), load_file(sparse / "network.safetensors")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["method.reparametrization=sign_in", "method.factors.reset_every=1", "sparsity.level=0.5"],
        ["method=acdc", "method.phases=1", "method.sparse_last=0.5", "optimizer.ham={alpha:2,beta:0.1}"],
        ["method=gmp", "method.delta_t=4", "method.final_sparsity=0.9"],
        ["method=imp", "method.levels=2", "method.epochs_per_level=1", "method.final_epochs=1"],
        ["method=edge_popup", "method.levels=2", "method.epochs_per_level=1", "method.final_sparsity=0.9"],
        ["method=str"],
        ["method=spred"],
        ["method=topkast"],
        ["method=sparse_momentum", "method.delta_t=4", "sparsity.level=0.5"],
        ["method=set", "method.delta_t=4", "method.t_end=1", "sparsity.level=0.5", "method.reparametrization=pilot"],
        ["method=srigl", "sparsity=erk", "sparsity.sampling=fan_in", "method.delta_t=4", "sparsity.level=0.5"],
    ],
)
def test_two_ranks_train_other_methods_as_one_rank(process, launch, only_run, monkeypatch, tmp_path, words):
    own_epochs = any(word.startswith("method.epochs_per_level") for word in words)
    words = [*PLAIN, *(word for word in EXACT if not (own_epochs and "max_epochs" in word)), *words]
    two = trained(process, tmp_path / "two", *words, "trainer.devices=2")
    monkeypatch.syspath_prepend(ROOT / "tests/runs")
    status, printed = launch(*words)
    assert status == 0, printed
    assert read(only_run())["mask_sha256"] == read(two)["mask_sha256"]
    a, b = load_file(only_run() / "network.safetensors"), load_file(two / "network.safetensors")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_synchronised_batchnorm_trains_as_on_one_rank(process, tmp_path):
    """Rounding errors grow with every step, so the bound on the loss after one epoch is loose."""
    words = ["model.sync_batchnorm=true", "model.width=0.25", "optimizer.lr=0.01", *EXACT, "trainer.max_epochs=1"]
    one = trained(process, tmp_path / "one", *words)
    two = trained(process, tmp_path / "two", *words, "trainer.devices=2", "trainer.precision=bf16-mixed")
    assert read(one)["hash"] == read(two)["hash"]
    assert read(one)["mask_sha256"] == read(two)["mask_sha256"] is not None
    assert float(rows(one)[0]["train/loss"]) == pytest.approx(float(rows(two)[0]["train/loss"]), rel=2e-3)


@pytest.mark.slow
def test_two_compiled_ranks_synchronise_batchnorm_as_masked_ones_do(process, tmp_path):
    """PyTorch traces and differentiates, and runs what it finds as it is: generating code takes minutes."""
    site = tmp_path / "site"
    site.mkdir()
    compiling = "import functools, torch\ntorch.compile = functools.partial(torch.compile, backend='aot_eager')\n"
    (site / "sitecustomize.py").write_text(compiling)
    environment = {"env": {"PYTHONPATH": os.pathsep.join([str(site), HERE["env"]["PYTHONPATH"]])}}
    words = ["model._target_=plain.residual", "model.name=plain", "model.sync_batchnorm=true", *EXACT]
    found = [
        trained(process, tmp_path / execution, *words, "trainer.devices=2", f"trainer.execution={execution}",
                environment=environment)
        for execution in ("masked", "compiled")
    ]  # fmt: skip
    losses = [[float(row["train/loss"]) for row in rows(folder)] for folder in found]
    assert read(found[1])["config"]["trainer"]["execution"] == "compiled"
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_two_ranks_evaluate_a_network_as_one_rank(process, tmp_path):
    words = ["method=evaluate", "model.width=0.25", "trainer.precision=32-true"]
    one = trained(process, tmp_path / "one", *words, "method.recalibrate=false")
    two = trained(process, tmp_path / "two", *words, "method.recalibrate=false", "trainer.devices=2")
    for name in ("train/loss", "test/loss", "test/acc"):
        assert read(one)["metrics"][name] == pytest.approx(read(two)["metrics"][name], rel=1e-5)
    trained(process, tmp_path / "recalibrated", *words, "trainer.devices=2")


def ranks_of(run):
    """Process IDs of the ranks that `run` has started."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(run.pid)], capture_output=True, text=True
    ).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "ersparse.runs.rank_main" in line]


def gone(pid, within=15.0):
    until = time.time() + within
    while time.time() < until:
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]:
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_run_whose_ranks_are_killed_resumes_to_the_results_of_an_undisturbed_one(process, tmp_path):
    """SIGKILL at random times, alternately to rank 1 and rank 0; ERSPARSE_KILLS=20 for more."""
    kills = int(os.environ.get("ERSPARSE_KILLS", "2"))
    words = [f"trainer.max_epochs={6 * kills}", "trainer.devices=2"]
    undisturbed = trained(process, tmp_path / "undisturbed", *KILLED, *words)
    training = read(undisturbed)["timing"]["fit_s"]
    for number in range(kills):
        run = process(*KILLED, *words, f"paths.root={tmp_path}/killed")
        while not ranks_of(run) and run.poll() is None:
            time.sleep(0.01)
        (second,) = ranks_of(run)
        done = len(list(tmp_path.glob("killed/runs/*/s0/checkpoints/*.ckpt")))
        while number % 4 < 2 and len(list(tmp_path.glob("killed/runs/*/s0/checkpoints/*.ckpt"))) == done < 2:
            time.sleep(0.01)  # the other half are killed while they start
        time.sleep(random.uniform(0, 0.25) * training / kills)
        assert run.poll() is None, "it was to be killed while it worked"
        os.kill(run.pid if number % 2 else second, signal.SIGKILL)
        printed, _ = run.communicate(timeout=60)
        assert gone(second) and gone(run.pid)
        if number % 2 == 0:
            assert run.returncode == 1 and "rank 1 of 2 died (SIGKILL); the same command resumes" in printed
            (record,) = (tmp_path / "killed").rglob("run.json")
            assert (read(record.parent)["state"], read(record.parent)["error"]) == (
                "failed", "rank 1 of 2 died (SIGKILL)",
            )  # fmt: skip
    assert outcome(trained(process, tmp_path / "killed", *KILLED, *words)) == outcome(undisturbed)


@pytest.mark.slow
def test_a_terminated_run_ends_its_ranks(process, tmp_path):
    run = process(*KILLED, "trainer.devices=2", "trainer.max_epochs=500", f"paths.root={tmp_path}/stopped")
    while not list(tmp_path.glob("stopped/runs/*/s0/checkpoints/epoch00002*")) and run.poll() is None:
        time.sleep(0.01)
    (second,) = ranks_of(run)
    run.terminate()
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == 130 and "interrupted; the same command resumes" in printed and "Traceback" not in printed
    assert gone(second)
    (record,) = (tmp_path / "stopped").rglob("run.json")
    assert read(record.parent)["state"] == "preempted"


@pytest.mark.slow
def test_ctrl_c_ends_a_run_that_waits_for_a_stopped_rank(process, tmp_path):
    run = process(*KILLED, "trainer.devices=2", "trainer.max_epochs=500", f"paths.root={tmp_path}/stopped")
    while not list(tmp_path.glob("stopped/runs/*/s0/checkpoints/epoch00001*")) and run.poll() is None:
        time.sleep(0.01)
    (second,) = ranks_of(run)
    os.kill(second, signal.SIGSTOP)
    time.sleep(1)
    run.send_signal(signal.SIGINT)
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == 130 and "interrupted; the same command resumes" in printed and gone(second)
    (record,) = (tmp_path / "stopped").rglob("run.json")
    assert read(record.parent)["state"] == "preempted"


@pytest.mark.slow
def test_a_failed_rank_is_reported_without_a_hint_to_repeat_the_command(process, tmp_path):
    (tmp_path / "failing.py").write_text(
        "import os\nfrom plain import plain as good\n"
        "def plain(num_classes, channels):\n"
        "    assert 'ERSPARSE_RANK' not in os.environ, 'out of memory, say'\n"
        "    return good(num_classes, channels)\n"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/runs"), str(tmp_path)])
    words = ["model._target_=failing.plain", "model.name=plain", "trainer.devices=2", "trainer.max_epochs=1"]
    run = process(*words, env={"PYTHONPATH": path})
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == 1 and "out of memory, say" in printed and "the same command resumes" not in printed
    (record,) = (tmp_path / "outputs").rglob("run.json")
    assert read(record.parent)["error"] == "RankFailed: rank 1 of 2 failed (status 1), as printed above"


@pytest.mark.slow
@pytest.mark.parametrize("failing, named", [(1, "rank 1 of 2 failed (status 1)"), (0, "out of memory, say")])
def test_a_rank_that_raises_in_training_ends_the_others_under_collective_destruction(
    process, tmp_path, as_nccl, failing, named
):
    """It is named within 20 s, although its peer waits for it in a collective operation."""
    (tmp_path / "failing.py").write_text(
        "import os, pathlib, time\nfrom ersparse.lightning.optimizers import sgd as good\n"
        "def sgd(*arguments, **options):\n"
        "    optimizer, steps = good(*arguments, **options), []\n"
        "    def count(*_):\n"
        "        steps.append(1)\n"
        f"        if len(steps) == 5 and ('ERSPARSE_RANK' in os.environ) == {bool(failing)}:\n"
        f"            pathlib.Path({str(tmp_path / 'failed_at')!r}).write_text(str(time.monotonic()))\n"
        "            raise ValueError('out of memory, say')\n"
        "    optimizer.register_step_pre_hook(count)\n"
        "    return optimizer\n"
    )
    as_nccl["env"]["PYTHONPATH"] += os.pathsep + str(tmp_path)
    words = [*PLAIN, *EXACT, "optimizer._target_=failing.sgd", "optimizer.name=failing", "trainer.devices=2"]
    run = process(*words, **as_nccl)
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == 1 and named in printed and "hangs" not in printed, printed
    assert time.monotonic() - float((tmp_path / "failed_at").read_text()) < 20
    (record,) = (tmp_path / "outputs").rglob("run.json")
    assert read(record.parent)["state"] == "failed" and named in read(record.parent)["error"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["trainer.devices=2", "dataset.validation=0.001"], "trainer.devices=2: must be at most 1 with"),
        (["trainer.devices=64"], "trainer.devices=64: must lie in [1, "),
        (
            ["trainer.devices=2", "dataset.batch_size=2"],
            "trainer.devices=2: must be at most 1 with dataset.batch_size=2",
        ),
    ],
)
def test_too_many_ranks_are_refused(launch, tmp_path, words, message):
    status, printed = launch("trainer.accelerator=cpu", *words)
    assert status == 2 and message in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())
