"""Whole runs: their folders, and what the same command does again."""

import os
import random
import signal
import time

import pytest
import torch
import yaml
from conftest import KILLED, TINY, outcome, read, resumed_and_undisturbed, rows
from safetensors.torch import load_file

from ersparse.lightning.classifier import Classifier
from ersparse.storage.run_folder import RunFolder


def test_a_run_writes_its_folder(launch, only_run):
    status, printed = launch(*TINY, "trainer.max_epochs=2", "dataset.validation=0.2", "seed=4")
    assert status == 0
    folder, record = only_run(), read(only_run())
    assert folder.name == "s4"
    assert {path.name for path in folder.iterdir()} >= {
        "run.json", "metrics.csv", "config.yaml", "checkpoints", "network.safetensors", "run.log",
    }  # fmt: skip
    assert set(record) == {
        "schema", "state", "hash", "seed", "command", "host", "config", "progress", "updated", "wandb_id", "sparsity",
        "layers", "mask_sha256", "source_mask_sha256", "network_sha256", "metrics", "timing", "versions", "git",
        "machine", "slurm", "error", "data",
    }  # fmt: skip
    assert (record["schema"], record["state"], record["seed"], record["error"]) == (1, "done", 4, None)
    assert record["progress"] == {"epoch": 2, "epochs": 2}
    assert folder.parent.name.endswith(record["hash"][:8])
    assert record["config"]["trainer"]["precision"] != "auto"
    assert yaml.safe_load((folder / "config.yaml").read_text()) == record["config"]
    assert set(record["layers"][0]) == {
        "name", "shape", "size", "density", "drawn", "zero_degree", "edges_added", "edges_moved", "nonzero",
        "positions",
    }  # fmt: skip
    assert [row["epoch"] for row in rows(folder)] == ["0", "1"]
    assert float(rows(folder)[-1]["test/acc"]) == record["metrics"]["test/acc"]
    assert record["metrics"]["test/acc_best"] == max(float(row["test/acc"]) for row in rows(folder))
    best = max(rows(folder), key=lambda row: float(row["val/acc"]))
    assert record["metrics"]["test/acc_at_best_val"] == float(best["test/acc"])
    assert record["timing"]["epochs"] == 2 and record["timing"]["images_per_s"] > 0
    last = printed.strip().splitlines()[-1]
    assert "test accuracy" in last and "realised sparsity" in last and str(folder) in last


def test_the_record_describes_the_network(finished):
    record, state = read(finished), load_file(finished / "network.safetensors")
    kept = total = 0
    for layer in record["layers"]:
        mask, weight = state[layer["name"] + "_mask"], state[layer["name"]]
        assert list(weight.shape) == layer["shape"] and mask.dtype == torch.bool
        assert weight[~mask].eq(0).all() and not weight[~mask].signbit().any()
        assert int(mask.sum()) == layer["nonzero"]
        added = sum(layer["edges_added"].values())
        assert layer["nonzero"] == layer["drawn"] + added
        kept, total = kept + layer["nonzero"], total + layer["size"]
    assert record["sparsity"]["realised"] == pytest.approx(1 - kept / total, abs=1e-12)
    assert record["sparsity"]["nominal"] == record["sparsity"]["expected"] == 0.9
    assert record["mask_sha256"] == record["source_mask_sha256"]


def test_a_finished_run_is_skipped(launch, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    status, printed = launch(*TINY)
    assert status == 0 and printed.startswith("already done: test accuracy")
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_fresh_starts_over(launch, finished):
    (finished / "stray").write_text("")
    status, _ = launch(*TINY, "fresh=true")
    assert status == 0 and read(finished)["state"] == "done" and not (finished / "stray").exists()


def test_draw_reads_no_data_and_imports_no_lightning(process, only_run):
    run = process(
        "method=draw", "dataset=cifar10", "dataset.root=/nowhere", "model=vgg19", env={"PYTHONPROFILEIMPORTTIME": "1"}
    )
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == 0 and "torch.nn" in printed
    assert not [name for name in ("pytorch_lightning", "torch._dynamo", "scipy", "sklearn") if name in printed]
    record = read(only_run())
    assert record["state"] == "done" and record["metrics"] == {} and len(record["layers"]) == 17


def test_dense_has_no_masks(launch, only_run):
    launch(*TINY, "sparsity=dense")
    record, state = read(only_run()), load_file(only_run() / "network.safetensors")
    assert record["sparsity"] == {"nominal": 0.0, "expected": 0.0, "realised": 0.0, "effective": 0.0}
    assert record["mask_sha256"] is None and not any(key.endswith("_mask") for key in state)
    assert all(layer["nonzero"] == layer["size"] for layer in record["layers"])


def test_masks_do_not_depend_on_trainer_settings(launch, tmp_path):
    for number, words in enumerate(([], ["trainer.precision=32-true"], ["dataset.batch_size=64"], ["method=draw"])):
        assert launch(*TINY, *words, f"paths.root={tmp_path}/outputs/{number}")[0] == 0
    hashes = {read(path.parent)["source_mask_sha256"] for path in (tmp_path / "outputs").rglob("run.json")}
    assert len(list((tmp_path / "outputs").rglob("run.json"))) == 4 and len(hashes) == 1


def test_dry_run_creates_nothing(launch, tmp_path):
    status, printed = launch("dry_run=true", "sparsity=erk")
    assert status == 0 and "state: new, 30 epochs" in printed and "expected 0.1" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(launch, finished):
    folder = RunFolder(finished)
    folder.write(folder.read() | {"state": "running"})
    with folder.acquire():
        status, printed = launch(*TINY)
    assert status == 2 and "in use by another process" in printed and printed.count("\n") == 1


def test_a_ticket_and_its_controls(launch, finished, tmp_path):
    """The masks of a run are the source of the next, optionally shuffled, with or without its weights."""
    first, before = read(finished), load_file(finished / "network.safetensors")
    for control in ("none", "shuffle", "reinit"):
        root = tmp_path / control
        status, _ = launch(
            *TINY, f"model.init_from={finished}", f"sparsity.control={control}", f"paths.root={root}",
            "optimizer.lr=1e-12",
        )  # fmt: skip
        (folder,) = [path.parent for path in root.rglob("run.json")]
        record, after = read(folder), load_file(folder / "network.safetensors")
        assert status == 0 and "-ticket-" in str(folder)
        assert [layer["nonzero"] for layer in record["layers"]] == [layer["nonzero"] for layer in first["layers"]]
        assert (record["mask_sha256"] == first["mask_sha256"]) == (control != "shuffle")
        name = "conv1.weight"
        both = before[name + "_mask"] & after[name + "_mask"]
        assert torch.allclose(before[name][both], after[name][both], atol=1e-6) == (control != "reinit")


def test_a_ticket_of_another_architecture_names_the_tensor(launch, finished):
    status, printed = launch(f"model.init_from={finished}")
    assert status == 2 and "its conv1.weight is [4, 1, 3, 3], model=resnet20 has [16, 1, 3, 3]" in printed


def test_densities_are_read_from_another_run(launch, tmp_path):
    launch("method=draw", "sparsity=erk", f"paths.root={tmp_path}/first")
    (first,) = [path.parent for path in (tmp_path / "first").rglob("run.json")]
    launch("method=draw", "sparsity=file", f"sparsity.file={first}", f"paths.root={tmp_path}/second")
    (second,) = [path.parent for path in (tmp_path / "second").rglob("run.json")]
    kept = [layer["nonzero"] / layer["size"] for layer in read(first)["layers"]]
    assert [layer["density"] for layer in read(second)["layers"]] == kept


@pytest.mark.parametrize("init", ["layer", "neuron"])
def test_sparse_initialisation(launch, only_run, init):
    status, _ = launch(*TINY, f"model.init={init}", "model=vgg16", "model.width=0.5", "optimizer.lr=1e-12")
    weight = load_file(only_run() / "network.safetensors")["features.24.weight"]
    kept = weight[weight != 0]
    assert status == 0
    assert kept.std().item() == pytest.approx((2 / (len(kept) / weight.shape[0])) ** 0.5, rel=0.15)


def test_initial_weights_are_not_replaced_twice(launch, finished):
    status, printed = launch(*TINY, f"model.init_from={finished}", "model.init=layer")
    assert status == 2 and printed.startswith("model.init=layer: must be default with model.init_from")
    status, printed = launch(*TINY, f"model.init_from={finished}", "model=vgg16")
    assert status == 2 and "model=vgg16 has no such tensor" in printed


def test_a_dense_network_takes_a_scaled_initialisation(launch, only_run):
    launch(*TINY, "sparsity=dense", "model=vgg16", "model.width=0.5", "model.init=layer", "optimizer.lr=1e-12")
    weight = load_file(only_run() / "network.safetensors")["features.24.weight"]
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


# ---- Interrupted runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(process, tmp_path):
    """SIGKILL at random moments, of training and start in turn; ERSPARSE_KILLS=20 for a longer run with more of them.

    One kill, and what is made of its folder when that is damaged as well: test_faults.
    """
    kills = int(os.environ.get("ERSPARSE_KILLS", "3"))
    words = [*KILLED, f"trainer.max_epochs={8 * kills}"]
    checkpoints = lambda: {path.name for path in tmp_path.glob("killed/runs/*/s0/checkpoints/*.ckpt")}
    for number in range(kills):
        run, before = process(*words, f"paths.root={tmp_path}/killed"), checkpoints()
        while number % 2 == 0 and checkpoints() <= before and run.poll() is None:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 3) if number % 2 else random.uniform(0, 0.5))
        assert run.poll() is None, "it was to be killed while it worked"
        run.send_signal(signal.SIGKILL)
        run.communicate()
    (_, killed), (_, undisturbed) = resumed_and_undisturbed(tmp_path, words)
    assert outcome(killed) == outcome(undisturbed)


@pytest.mark.slow
def test_a_run_killed_after_each_checkpoint_resumes(process, tmp_path):
    """The run is killed as soon as a checkpoint appears, and again in the next epoch."""
    for epoch in (1, 3):
        run = process(*KILLED, f"paths.root={tmp_path}/killed")
        while not list(tmp_path.glob(f"killed/runs/*/s0/checkpoints/epoch{epoch:05d}*")) and run.poll() is None:
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    (_, killed), (_, undisturbed) = resumed_and_undisturbed(tmp_path, KILLED)
    assert outcome(killed) == outcome(undisturbed)


def test_a_failure_is_recorded(launch, only_run, monkeypatch):
    from ersparse.lightning.classifier import Classifier

    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Classifier, "training_step", broken)
    with pytest.raises(RuntimeError, match="out of luck"):
        launch(*TINY)
    record = read(only_run())
    assert record["state"] == "failed" and record["error"] == "RuntimeError: out of luck"
    assert "Traceback" in (only_run() / "run.log").read_text()


CUDA_ERROR = "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    "error, status, state, line",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0"), 1, "failed",
         "dataset.batch_size=256: the memory of the GPU is full (CUDA out of memory. Tried to allocate 2 GiB); must"),
        (RuntimeError(CUDA_ERROR), 130, "preempted",
         "the GPU has failed or is occupied: CUDA error: uncorrectable ECC error encountered"),
    ],
)  # fmt: skip
def test_errors_of_a_gpu_are_told_in_one_line(launch, only_run, monkeypatch, error, status, state, line):
    """A full memory is the user's to mend; a fault of the hardware interrupts the run, and a cluster requeues it."""

    def failing(*_):
        raise error

    monkeypatch.setattr(Classifier, "training_step", failing)
    found, printed = launch(*TINY)
    assert found == status and line in printed and "Traceback" not in printed, printed
    assert read(only_run())["state"] == state


@pytest.mark.parametrize("words", [[], ["dry_run=true", "fresh=true"]])
def test_a_run_that_is_done_and_a_dry_run_do_not_occupy_a_gpu(launch, finished, monkeypatch, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: pytest.fail("it takes memory of the GPU"))
    status, printed = launch(*TINY, "trainer=gpu", *words)
    assert status == 0 and ("already done" in printed or words), printed
