"""The moving average of the weights, the network of the best validation epoch, and early stopping."""

import errno
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from conftest import TINY, read, rows
from fitting import batches, optimizer, trainer
from safetensors.torch import load_file
from torch import nn

import ersparse
from ersparse.lightning.callbacks import BestWeights, Checkpoints, EqualAverage, FixedMask, WeightAverage
from ersparse.lightning.classifier import Classifier

VALIDATED = [*TINY, "trainer.max_epochs=2", "dataset.validation=0.2"]


class Weights(pl.Callback):
    """Copies the network's state after every optimizer step."""

    def __init__(self):
        self.seen, self.step = [], 0

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            self.seen.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})


def test_the_average_equals_its_definition_and_is_evaluated():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))
    module = Classifier(network, 10, optimizer("sgd", lr=0.5), 1, ["test"])
    average, weights = WeightAverage(0.7), Weights()
    fitted = trainer([average, weights], accumulate_grad_batches=2)
    fitted.fit(module, batches(256, 32), [batches(200, 64)])
    assert len(weights.seen) == 4
    wanted = {name: value.double() for name, value in weights.seen[0].items() if value.is_floating_point()}
    for state in weights.seen[1:]:
        wanted = {name: 0.7 * value + 0.3 * state[name].double() for name, value in wanted.items()}
    assert wanted.keys() == average.dense().keys() and "2.running_var" in wanted
    for name, value in average.dense().items():
        torch.testing.assert_close(value.double(), wanted[name], rtol=1e-5, atol=1e-6)
    raw = fitted.callback_metrics["test/loss"].item()
    network.load_state_dict(average.dense(), strict=False)
    with torch.no_grad():
        results = [(module.eval()(x), y) for x, y in batches(200, 64)]
    logits, labels = torch.cat([r for r, _ in results]), torch.cat([y for _, y in results])
    loss = nn.functional.cross_entropy(logits, labels).item()
    assert fitted.callback_metrics["test/loss_ema"].item() == pytest.approx(loss, rel=1e-5) != raw
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    assert fitted.callback_metrics["test/acc_ema"].item() == pytest.approx(accuracy)


class EpochWeights(pl.Callback):
    """Copies the network's parameters at the end of every epoch, and its loader."""

    def __init__(self):
        self.seen = []

    def on_validation_start(self, trainer, pl_module):
        self.seen.append(
            {name: value.detach().double().clone() for name, value in pl_module.network.named_parameters()}
        )


@pytest.mark.parametrize("start, counted", [(0.0, [0, 1, 2, 3]), (0.5, [2, 3]), (0.9, [3])])
def test_equal_averages_equal_their_definition_with_statistics_of_their_own(start, counted):
    """Against `torch.optim.swa_utils.update_bn`; removed weights stay zero, and the network's statistics its own."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 10))
    ersparse.sparsify(network, "uniform", 0.5, flow="none", seed=0)
    module = Classifier(network, 10, optimizer("sgd", lr=0.5), 4, ["test"])
    average, weights = EqualAverage(start), EpochWeights()
    fitted = trainer([FixedMask(), average, weights], epochs=4)
    fitted.fit(module, batches(256, 32), [batches(200, 64)])
    assert average.count == len(counted)
    own = {name: value.clone() for name, value in network.state_dict().items()}
    raw = fitted.callback_metrics["test/loss"].item()
    found = average.dense()
    for name in weights.seen[0]:
        wanted = torch.stack([weights.seen[epoch][name] for epoch in counted]).mean(0)
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-5, atol=1e-6)
    assert not found["1.weight"][~own["1.weight_mask"]].any() and not found["4.weight"][~own["4.weight_mask"]].any()
    network.load_state_dict({name: value for name, value in found.items() if "running" not in name}, strict=False)
    torch.optim.swa_utils.update_bn(batches(256, 32), network)
    for name in ("2.running_mean", "2.running_var"):
        torch.testing.assert_close(found[name], network.state_dict()[name])
        assert not torch.equal(found[name], own[name])
    with torch.no_grad():
        results = [(module.eval()(x), y) for x, y in batches(200, 64)]
    logits, labels = torch.cat([r for r, _ in results]), torch.cat([y for _, y in results])
    loss = nn.functional.cross_entropy(logits, labels).item()
    assert fitted.callback_metrics["test/loss_swa"].item() == pytest.approx(loss, rel=1e-5) != raw


@pytest.mark.slow
@pytest.mark.parametrize("execution", [pytest.param("masked", marks=pytest.mark.slow), "sparse"])
def test_a_resumed_run_has_the_same_average_and_best_network(launch, only_run, monkeypatch, execution):
    """A full disk interrupts a rewired run after its first epoch."""
    words = [*VALIDATED, "trainer.ema=0.9", "trainer.swa=0", "trainer.keep_best=true", f"trainer.execution={execution}"]
    words += ["method=rigl", "method.delta_t=2", "method.drop_fraction=0.3"]
    files = [f"network{name}.safetensors" for name in ("", "-ema", "-swa", "-best")] + ["metrics.csv"]
    assert launch(*words)[0] == 0
    wanted = [(only_run() / name).read_bytes() for name in files]
    save = Checkpoints.on_train_epoch_end

    def save_and_stop(self, trainer, module):
        save(self, trainer, module)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_train_epoch_end", save_and_stop)
        assert launch(*words, "fresh=true")[0] == 1
    status, printed = launch(*words)
    assert status == 0 and "resuming after epoch 1" in printed, printed
    assert [(only_run() / name).read_bytes() for name in files] == wanted
    network, *averages = (load_file(only_run() / name) for name in files[:3])
    for averaged in averages:
        assert network.keys() == averaged.keys()
        for name, mask in network.items():
            if name.endswith("_mask"):
                assert torch.equal(mask, averaged[name]) and not averaged[name.removesuffix("_mask")][~mask].any()
    record = read(only_run())
    assert record["swa"] == {"epochs": 2} and record["metrics"]["test/acc_swa"] == float(
        rows(only_run())[-1]["test/acc_swa"]
    )
    best = max(rows(only_run()), key=lambda row: float(row["val/acc"]))
    assert record["best_validation"]["epoch"] == int(best["epoch"])
    assert record["metrics"]["test/acc_ema"] == float(rows(only_run())[-1]["test/acc_ema"])
    assert record["metrics"]["test/acc_at_best_val"] == float(best["test/acc"])


def stopping(accuracies, patience, callback=None, epochs=20, start=0):
    """Drive the callback as a Trainer would: (number of epochs that were trained, the callback, networks written)."""
    written = []
    callback = callback or BestWeights(written.append, patience)
    module = Classifier(nn.Linear(1, 1), 2, optimizer("sgd"), epochs, ["val"])
    fake = SimpleNamespace(should_stop=False, max_epochs=epochs, current_epoch=start)
    callback.on_train_start(fake, module)
    while fake.current_epoch < epochs and not fake.should_stop:
        fake.callback_metrics = {"val/acc": accuracies[fake.current_epoch]}
        callback.on_train_epoch_end(fake, module)
        fake.current_epoch += 1
    return fake.current_epoch, callback, len(written)


@pytest.mark.parametrize(
    "accuracies, patience, epochs, best",
    [
        ([0.1, 0.3, 0.2, 0.3, 0.29, 0.9], 3, 5, 1),  # an equal accuracy is no better one
        ([0.1, 0.3, 0.2, 0.3, 0.31, 0.2, 0.1, 0.3], 3, 8, 4),
        ([0.5] * 20, 1, 2, 0),
        ([epoch / 20 for epoch in range(20)], 1, 20, 19),
        ([0.9, *[0.1] * 19], None, 20, 0),
    ],
)
def test_early_stopping_counts_epochs_without_a_better_one(accuracies, patience, epochs, best):
    ended, callback, _ = stopping(accuracies, patience)
    assert (ended, callback.epoch) == (epochs, best)
    assert callback.stopped == (epochs if epochs < 20 else None)
    restored = BestWeights(None, patience)
    restored.load_state_dict(callback.state_dict())
    assert stopping(accuracies, patience, restored, start=ended)[0] == ended  # stays stopped after a resume


def test_a_stopped_run_is_done_and_says_so(launch, only_run):
    words = [*VALIDATED, "trainer.max_epochs=6", "trainer.early_stopping=1", "optimizer.lr=1e-9"]
    status, printed = launch(*words)
    assert status == 0 and "early stopping after epoch" in printed, printed
    record = read(only_run())
    stopped = record["best_validation"]["stopped_after"]
    assert record["state"] == "done" and record["progress"] == {"epoch": stopped, "epochs": 6} and stopped < 6
    assert len(rows(only_run())) == stopped and (only_run() / "network-best.safetensors").exists()
    assert "already done" in launch(*words)[1]
    (only_run() / "network.safetensors").unlink()
    assert launch(*words)[0] == 0 and len(rows(only_run())) == stopped  # restored without a further epoch


def test_what_a_finished_run_lacks_is_said(launch, finished):
    status, printed = launch(*TINY, "trainer.metrics=[ece]")
    assert status == 0 and "it has no trainer.metrics; fresh=true runs it again" in printed
    assert "it has no" not in launch(*TINY)[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (["trainer.ema=1"], "trainer.ema=1: must lie in (0, 1)"),
        (["trainer.ema=0.9", "method=imp"], "trainer.ema=0.9: must be null with method=imp"),
        (["trainer.swa=1"], "trainer.swa=1: must lie in [0, 1)"),
        (["trainer.swa=0.5", "method=imp"], "trainer.swa=0.5: must be null with method=imp"),
        (["trainer.ema=0.9", "method=edge_popup"], "trainer.ema=0.9: must be null with method=edge_popup"),
        (
            ["trainer.early_stopping=3"],
            "trainer.early_stopping=3: needs a validation split, dataset.validation above 0",
        ),
        (["trainer.keep_best=true"], "trainer.keep_best=true: needs a validation split"),
        (
            ["trainer.keep_best=true", "dataset.validation=0.1", "method=granet"],
            "trainer.keep_best=true: must not be set with method=granet, whose masks are final in the last epoch only",
        ),
        (
            ["trainer.early_stopping=1", "dataset.validation=0.1", "method=imp"],
            "trainer.early_stopping=1: must not be set with method=imp",
        ),
    ],
)
def test_wrong_keys_are_refused(refusal, words, message):
    line = refusal(*words)
    assert line.startswith(message) and "\n" not in line
