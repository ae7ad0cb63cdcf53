"""Whole runs of every method on a device without hardware: results of the CPU bit for bit, and no step that waits."""

import errno
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import outcome, read
from fake_device.training import Steps, run
from pytorch_lightning import Callback
from safetensors.torch import load_file
from torch.backends import cudnn

from ersparse.config.options import CONF
from ersparse.errors import RunFailed
from ersparse.lightning import classifier
from ersparse.lightning.callbacks.checkpoints import Checkpoints, snapshot
from ersparse.runs import train
from ersparse.sources.exact_products import exact_products
from ersparse.storage import checkpoints
from ersparse.storage.checkpoint_request import request_checkpoint

EPOCHS = ["trainer.max_epochs=2"]
REWIRING = [*EPOCHS, "method.delta_t=2", "sparsity.level=0.5"]  # updates after two and four of six steps
RIGL = ["method=rigl", *REWIRING]
LEVELS = ["method.levels=2", "method.epochs_per_level=1"]
SEARCH = ["method=edge_popup", "sparsity=uniform", "sparsity.level=0.5", "method.final_sparsity=0.9", *LEVELS]
PRUNING = ["method.final_sparsity=0.8", *LEVELS, "method.final_epochs=1"]
RESIDUAL = ["model._target_=plain.residual", "model.name=residual", "model.width=1"]
RUNS = {
    "fixed": EPOCHS,
    "dense": [*EPOCHS, *RESIDUAL, "sparsity=dense"],
    "validation": [*EPOCHS, "dataset.validation=0.1"],
    "reflected": [*EPOCHS, "dataset.padding_mode=reflect", "dataset.crop_padding=1", "dataset.flip=true"],
    "adam": [*EPOCHS, "optimizer=adam"],
    "mixed": [*EPOCHS, "dataset.mixup=0.2", "dataset.cutmix=1.0", "loss.label_smoothing=0.1", "trainer.clip_norm=1"],
    "averaged": [*EPOCHS, "trainer.ema=0.9", "trainer.metrics=[top5,ece,per_class]"],
    "nesterov": [*EPOCHS, "optimizer.nesterov=true", "trainer.tf32=false"],
    "ham": [*EPOCHS, "optimizer.ham={alpha:10,beta:0.1}"],
    "scaled_init": [*EPOCHS, "model.init=neuron"],
    "sign_in": [*EPOCHS, "method.reparametrization=sign_in", "method.factors.reset_every=1"],
    "snip": [*EPOCHS, "sparsity=snip"],
    "synflow_densities": [*EPOCHS, "sparsity=synflow", "sparsity.rounds=2"],
    "rigl": RIGL,
    "rigl_global": [
        *RIGL,
        "method.scope=global",
        "method.ties=spread",
        "method.grown_value=random",
        "method.grown_state=keep",
    ],
    "rigl_skips_steps": [*RIGL, "method.skip_step=true", "method.regrow=false", "method.ties=spread"],
    "rigl_keeps_flow": [*RIGL, "method.keep_flow=true"],
    "rigl_residual": [*RIGL, *RESIDUAL],
    "set": ["method=set", *REWIRING],
    "mest": ["method=mest", *REWIRING, "method.scope=layer"],
    "cht": ["method=cht", *REWIRING],
    "dsr": ["method=dsr", *REWIRING],
    "east": ["method=east", *REWIRING, "trainer.max_epochs=3", "method.final_sparsity=0.8", "method.cycles=1"],
    "srigl": ["method=srigl", *REWIRING, "sparsity.sampling=fan_in", "method.grow=ch3", "method.drop=mest"],
    "sparse_momentum": ["method=sparse_momentum", *REWIRING, "sparsity.pattern=2x2", "sparsity.exclude=[0.*]"],
    "rigl_pilot": [*RIGL, "method.reparametrization=pilot", "method.factors.penalty=0.01"],
    "granet": ["method=granet", *REWIRING, "method.final_sparsity=0.8"],
    "granet_from_dense": ["method=granet", *REWIRING, "sparsity=dense", "method.final_sparsity=0.8"],
    "gmp": ["method=gmp", *EPOCHS, "method.delta_t=2", "method.final_sparsity=0.8"],
    "acdc": [
        "method=acdc",
        "trainer.max_epochs=3",
        "method.phases=2",
        "method.dense_first=0",
        "method.sparse_last=0.3",
    ],
    "topkast": ["method=topkast", *EPOCHS],
    "str": ["method=str", *EPOCHS, "method.initial=-3"],
    "spred": ["method=spred", *EPOCHS, "method.threshold=0.01"],
    "edge_popup": SEARCH,
    "edge_popup_global": [*SEARCH, "method.scope=global", "method.min_keep=1", "method.scores=reset"],
    "edge_popup_raw": [*SEARCH, "method.multiply_by=scores"],
    "edge_popup_affine": [*SEARCH, *RESIDUAL, "method.affine=true"],
    "imp": ["method=imp", "sparsity=dense", *RESIDUAL, *PRUNING],
    "imp_rewinds_to_epoch": ["method=imp", *PRUNING, "method.epochs_per_level=2", "method.rewind=epoch"],
    "lrr": ["method=lrr", *RESIDUAL, *PRUNING],
    "cyclic": ["method=cyclic", *LEVELS, "method.final_epochs=1"],
    "sculpt": ["method=sculpt", "sparsity.level=0.5", *PRUNING],
    "synflow": ["method=synflow", "sparsity=dense", *PRUNING],
    "evaluate": ["method=evaluate", *RESIDUAL],
}
WAITS_OF_AN_UPDATE = 2  # whatever the number of layers
FURTHER_MULTIPLICATIONS = {"ham": 3}  # beside the one that masks


def test_every_method_that_trains_is_among_the_runs():
    options = {path.stem for path in (CONF / "method").glob("[!_]*.yaml")} - {"draw", "theory"}
    named = {word.removeprefix("method=") for words in RUNS.values() for word in words if word.startswith("method=")}
    assert options == named | {"fixed"}


@pytest.mark.parametrize("name", RUNS)
def test_results_equal_those_of_the_cpu_and_no_step_waits_for_the_device(name, tmp_path):
    """The run on the device is interrupted after its first epoch and resumed; `evaluate` has only one epoch."""
    expected = run(tmp_path / "cpu", RUNS[name], "cpu", Callback())
    steps, rest = Steps(interrupt=True), Steps()
    if name != "evaluate":
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "device", RUNS[name], "fake", steps)
    found = run(tmp_path / "device", RUNS[name], "fake", rest)
    assert read(found)["hash"] == read(expected)["hash"]
    assert outcome(found) == outcome(expected)
    assert {"cuda", "cudnn", "driver"} <= read(found)["versions"].keys()
    updates = found / "rewiring.csv"
    if updates.exists():
        assert updates.read_text() == (expected / "rewiring.csv").read_text()
    watches = steps.watches | rest.watches
    masked = name != "dense" and not name.startswith("edge_popup")
    assert len(watches) >= (3 if name == "evaluate" else 4)
    for step, watch in watches.items():
        allowed = WAITS_OF_AN_UPDATE if updates.exists() and step % 2 == 0 else 0
        assert watch.waits.total() <= allowed, f"step {step}: {watch.waits}"
        assert "kthvalue" not in watch.operations, "on a GPU it is a single block of threads"
        assert watch.operations["_foreach_mul_"] == (1 if masked else 0) + FURTHER_MULTIPLICATIONS.get(name, 0), (
            "one operation masks all weights"
        )


def test_a_run_resumes_in_another_memory_format(tmp_path):
    """As on a GPU after a CPU. Fused optimizers ignore strides, and momentum would belong to other weights."""
    expected = run(tmp_path / "expected", EPOCHS, "cpu", Callback())
    with pytest.raises(KeyboardInterrupt), mock.patch.object(classifier, "memory_format") as chosen:
        chosen.return_value = torch.contiguous_format
        run(tmp_path / "resumed", EPOCHS, "cpu", Steps(interrupt=True))
    resumed = run(tmp_path / "resumed", EPOCHS, "cpu", Callback())
    before, after = (load_file(folder / "network.safetensors") for folder in (expected, resumed))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-4, atol=1e-5)


def test_narrow_networks_train_in_channels_last_format_on_gpus_alone(tmp_path):
    class Format(Callback):
        def on_fit_start(self, trainer, module):
            self.strides = module.network.branch[0].weight.stride()
            raise KeyboardInterrupt

    formats = {device: Format() for device in ("cpu", "fake")}
    for device, callback in formats.items():
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / device, [*EPOCHS, *RESIDUAL, "model.width=0.5"], device, callback)
    assert formats["cpu"].strides[1] == 9 and formats["fake"].strides[1] == 1


@pytest.mark.parametrize("pruner", ["snip", "grasp", "synflow"])
def test_pruners_score_on_the_device_and_say_so(pruner, tmp_path):
    words = [f"sparsity={pruner}", "sparsity.rounds=2" if pruner == "synflow" else "sparsity.score_dtype=float64"]
    found = {}
    for device in ("cpu", "fake"):
        run(tmp_path / device, ["trainer.max_epochs=1", *words], device, Callback())
        (file,) = (tmp_path / device / "cache/densities").glob("*.json")
        found[device] = json.loads(file.read_text())
    assert "machine" not in found["cpu"] and found["fake"]["machine"].endswith("fake")
    assert found["fake"]["mask_sha256"] == found["cpu"]["mask_sha256"]


def test_scores_are_computed_in_full_float32_by_deterministic_algorithms():
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic
    with exact_products():
        assert torch.get_float32_matmul_precision() == "highest" and cudnn.deterministic and not cudnn.allow_tf32
    assert before == (torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic)


@pytest.mark.parametrize("least, expected", [(2, True), (2_000, False)])
def test_algorithms_are_timed_in_long_runs_only(least, expected, tmp_path):
    class Benchmark(Callback):
        def on_train_start(self, trainer, module):
            self.found = cudnn.benchmark
            raise KeyboardInterrupt

    with mock.patch.object(train, "BENCHMARKED_FROM", least), pytest.raises(KeyboardInterrupt):
        run(tmp_path, EPOCHS, "cpu", callback := Benchmark())
    assert callback.found == expected


class NextStep(Callback):
    """Says whether training has gone on after its first epoch."""

    def __init__(self):
        self.reached = threading.Event()

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.current_epoch == 1:
            self.reached.set()


def test_checkpoints_are_written_while_a_gpu_trains_on(tmp_path):
    """The first write does not begin before the next epoch, and holds the state at the end of the first."""
    following, original, waited = NextStep(), checkpoints.write_bytes, []

    def write(*arguments):
        waited.append(following.reached.wait(20))
        original(*arguments)

    with mock.patch.object(checkpoints, "write_bytes", write):
        found = run(tmp_path, [*RIGL, "trainer.max_epochs=2"], "fake", following)
    assert waited == [True, True] and read(found)["state"] == "done"


class Interrupted(Callback):
    """Interrupts a run in its fourth epoch, after a request for a checkpoint in its second, if there is one."""

    def __init__(self, request):
        self.request = request

    def on_train_epoch_start(self, trainer, module):
        if self.request and trainer.current_epoch == 1:
            request_checkpoint(Path(trainer.default_root_dir))
        if trainer.current_epoch == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("request_one, kept", [(False, []), (True, ["epoch00002"])])
def test_checkpoints_have_a_least_interval_and_can_be_asked_for(request_one, kept, tmp_path):
    words = ["trainer.max_epochs=4", "trainer.checkpoint_every=3600"]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, words, "cpu", Interrupted(request_one))
    assert [path.name[:10] for path in sorted(tmp_path.rglob("*.ckpt"))] == kept
    assert not list(tmp_path.rglob(".requested"))
    if request_one:
        expected = run(tmp_path / "whole", words[:1], "cpu", Callback())
        assert outcome(run(tmp_path, words, "cpu", Callback())) == outcome(expected)
        assert [path.name[:10] for path in next(tmp_path.glob("runs/*/s0")).rglob("*.ckpt")] == ["epoch00004"]


def test_the_interval_counts_from_the_last_checkpoint(monkeypatch, tmp_path):
    """Epochs of 30 seconds, and checkpoints at least every 60: after every second epoch, and after the last."""
    now, saved = [0.0], []
    trainer = SimpleNamespace(
        should_stop=False, max_epochs=5, current_epoch=0, save_checkpoint=lambda path: saved.append(path.stem),
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )  # fmt: skip
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    callback = Checkpoints(checkpoints.CheckpointFiles(tmp_path, "run"), 60)
    callback.on_train_start(trainer, None)
    for trainer.current_epoch in range(5):
        now[0] += 30
        callback.on_train_epoch_end(trainer, None)
    assert saved == ["epoch00002", "epoch00004", "epoch00005"]


@pytest.mark.parametrize("call", [1, 2])
def test_a_checkpoint_that_cannot_be_written_fails_the_run(call, tmp_path):
    original, calls = checkpoints.write_bytes, []

    def write(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments)

    with mock.patch.object(checkpoints, "write_bytes", write), pytest.raises(RunFailed, match="No space left"):
        run(tmp_path, EPOCHS, "fake", Callback())


def test_a_snapshot_does_not_change_with_the_original():
    state = torch.nn.BatchNorm2d(2).state_dict()
    original = {"state_dict": state, "rows": [[1, "a"]], "epoch": 3}
    copied = snapshot(original)
    state["weight"].zero_()
    original["rows"].append([2])
    assert copied["state_dict"]["weight"].tolist() == [1, 1] and copied["rows"] == [[1, "a"]] and copied["epoch"] == 3
    assert copied["state_dict"]._metadata == state._metadata
