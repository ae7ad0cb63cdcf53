"""Label smoothing, clipping, accumulation, further metrics, deterministic algorithms and traces."""

import copy
import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, read, rows
from fitting import SGD, batches, optimizer, trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ersparse
from ersparse.lightning.callbacks import FixedMask
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.optimizers import make_optimizer


def linear_classifier(settings):
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 10, settings, 1, ["test"])


def test_label_smoothing_is_of_the_training_loss_alone():
    """(1 - s) of the label's and s of the mean negative log-likelihood; also for the labels of mixed images."""
    module = linear_classifier(SGD)
    module.label_smoothing = 0.2
    (images, labels), *_ = batches(64)
    logs = -F.log_softmax(module(images), 1)
    wanted = 0.8 * logs[torch.arange(64), labels].mean() + 0.2 * logs.mean()
    torch.testing.assert_close(module.training_step((images, labels), 0), wanted)
    mixed = 0.7 * F.one_hot(labels, 10) + 0.3 * F.one_hot(labels.flip(0), 10)
    wanted = 0.8 * (mixed * logs).sum(1).mean() + 0.2 * logs.mean()
    torch.testing.assert_close(module.training_step((images, mixed), 0), wanted)
    module.validation_step((images, labels), 0)
    torch.testing.assert_close(module.metrics["test/loss"].compute(), logs[torch.arange(64), labels].mean())


@pytest.mark.parametrize("limit, length", [(0.01, 0.01), (1e9, None)])
def test_clipping_limits_the_step_of_kept_weights(limit, length):
    """One step of plain SGD with lr 1 is as long as the limit, or as the gradient if this is shorter."""
    settings = optimizer("sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    module = linear_classifier(settings)
    ersparse.sparsify(module.network, "uniform", 0.9, flow="none", seed=0)
    before = copy.deepcopy(module.network.state_dict())
    trainer([FixedMask()], gradient_clip_val=limit).fit(module, batches(64), [batches(64)])
    after = module.network.state_dict()
    step = torch.cat([(after[name] - before[name]).flatten() for name in after if after[name].is_floating_point()])
    images, labels = next(iter(batches(64)))
    module.network.load_state_dict(before)
    module.zero_grad()
    module.training_step((images, labels), 0).backward()
    mask = before["1.weight_mask"]
    kept = torch.cat([module.network[1].weight.grad[mask], module.network[1].bias.grad])
    assert step.norm().item() == pytest.approx(length or kept.norm().item(), rel=1e-4)


@pytest.mark.parametrize("name, fused, length", [("sgd", True, 0.5 * 1024), ("lion", False, 0.5)])
def test_with_scaled_gradients_the_limit_is_scaled(name, fused, length):
    """A fused optimizer gets scaled gradients of 16-mixed, and unscales them after clipping; others unscaled ones."""
    module = linear_classifier(optimizer(name))
    scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    made = make_optimizer(list(module.network.parameters()), optimizer(name))
    assert getattr(made, "_step_supports_amp_scaling", False) == fused
    for parameter in module.network.parameters():
        parameter.grad = torch.full_like(parameter, 1e4)
    module.configure_gradient_clipping(made, 0.5, None)
    norm = torch.cat([parameter.grad.flatten() for parameter in module.network.parameters()]).norm()
    assert norm.item() == pytest.approx(length, rel=1e-4)


def test_accumulated_batches_take_the_step_of_their_union():
    settings = optimizer("sgd", lr=0.5)
    whole, parts = linear_classifier(settings), linear_classifier(settings)
    trainer([]).fit(whole, batches(256, 64), [batches(64)])
    trainer([], accumulate_grad_batches=4).fit(parts, batches(256, 16), [batches(64)])
    for wanted, found in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_further_metrics_equal_a_calculation_by_hand():
    """On images of eight of ten classes, with logits in [0, 1], which torchmetrics would take for probabilities."""
    module = linear_classifier(optimizer("sgd", lr=1e-12))
    module.add_metrics(["top5", "ece", "per_class"])
    images, labels = next(iter(batches(400, 400)))
    images, labels = images[labels < 8] / 20, labels[labels < 8]
    module.network[1].bias.data.fill_(0.5)
    fitted = trainer([])
    fitted.fit(module, batches(64), DataLoader(TensorDataset(images, labels), 60))
    p = torch.softmax(module(images).double(), 1).detach().numpy()
    y, order = labels.numpy(), np.argsort(-p, axis=1)
    assert fitted.callback_metrics["test/top5"].item() == pytest.approx((order[:, :5] == y[:, None]).any(1).mean())
    confidence, correct = p.max(1), order[:, 0] == y
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [(bins == b).mean() * abs(correct[bins == b].mean() - confidence[bins == b].mean()) for b in set(bins)]
    assert fitted.callback_metrics["test/ece"].item() == pytest.approx(sum(gaps), abs=1e-5)
    wanted = [correct[y == c].mean() for c in range(8)]
    assert module.per_class["test"][:8] == pytest.approx(wanted) and module.per_class["test"][8:] == [None, None]


def test_everything_beside_the_results_in_one_run(launch, only_run, finished):
    """Metrics, a trace and deterministic algorithms change neither the hash nor the network."""
    before, network = read(finished), (finished / "network.safetensors").read_bytes()
    extra = ["trainer.metrics=[top5,ece,per_class]", "trainer.profile=true", "trainer.deterministic=true"]
    status, printed = launch(*TINY, *extra, "fresh=true")
    assert status == 0, printed
    record = read(only_run())
    assert record["hash"] == before["hash"] and (only_run() / "network.safetensors").read_bytes() == network
    assert record["metrics"]["test/acc"] == before["metrics"]["test/acc"] <= record["metrics"]["test/top5"] <= 1
    assert len(record["per_class"]["test"]) == 10 and {"test/top5", "test/ece"} < set(rows(only_run())[0])
    with gzip.open(only_run() / "profile" / "trace.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert any("conv" in str(name) for name in names)
    assert "aten::" in (only_run() / "profile" / "operations.txt").read_text()
    assert not torch.are_deterministic_algorithms_enabled()


def test_smoothing_clipping_and_accumulation_of_a_run(launch, only_run):
    keys = ["loss.label_smoothing=0.1", "trainer.clip_norm=0.5", "trainer.accumulate=4", "schedule.warmup=1steps"]
    status, printed = launch(*TINY, *keys, "schedule.interval=step")
    assert status == 0, printed
    (checkpoint,) = (only_run() / "checkpoints").glob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 2  # 6 batches, 4 of them a step
    config = read(only_run())["config"]
    assert config["trainer"]["clip_norm"] == 0.5 and config["loss"] == {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    "words, message",
    [
        (["trainer.clip_norm=0"], "trainer.clip_norm=0: must lie in (0, inf)"),
        (["trainer.accumulate=0"], "trainer.accumulate=0: must lie in [1, inf)"),
        (["loss.label_smoothing=1"], "loss.label_smoothing=1: must lie in [0, 1)"),
        (["trainer.metrics=[top3]"], "trainer.metrics.0=top3: must be one of top5, ece, per_class"),
        (
            ["trainer.clip_norm=1", "method=rigl", "method.grown_state=keep"],
            "trainer.clip_norm=1.0: needs method.grown_state=zero",
        ),
    ],
)
def test_wrong_keys_are_refused(refusal, words, message):
    line = refusal(*words)
    assert line.startswith(message) and "\n" not in line
