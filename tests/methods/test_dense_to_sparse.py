"""AC/DC, STR and spred: schedules and steps against slow references, and what comes out."""

import pytest
import torch
from conftest import ROOT, read, rows
from fitting import SGD, batches, trainer
from methods.test_gradual_pruning import TOTAL, SlowPruning
from runs.plain import plain
from safetensors.torch import load_file

from ersparse.lightning.callbacks import FixedMask
from ersparse.lightning.callbacks.phases import AlternatingPhases
from ersparse.lightning.classifier import Classifier
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import masks_of
from ersparse.sparse.schedules import compressed

SMALL = ["model._target_=plain.plain", "model.name=plain", "dataset.batch_size=256"]


def phases(epochs, *arguments):
    """Return the epochs at which phases begin, from the first compressed one on."""
    states = [False, *(compressed(epochs, *arguments, epoch) for epoch in range(epochs))]
    return [epoch for epoch in range(epochs) if states[epoch] != states[epoch + 1]]


def test_phases_are_those_of_the_released_code_on_cifar():
    """Of 200 epochs, its configurations prune at 10, 50, …, 170 and restore the weights at 30, 70, 110 and 150."""
    assert phases(200, 5, 0.05, 0.15) == [10, 30, 50, 70, 90, 110, 130, 150, 170]


@pytest.mark.parametrize("epochs", range(1, 12))
def test_the_last_epoch_is_compressed(epochs):
    for count in (1, 2, 5):
        for first, last in ((0.0, 0.01), (0.5, 0.5), (0.05, 0.15), (0.0, 1.0)):
            assert compressed(epochs, count, first, last, epochs - 1)
            assert len(phases(epochs, count, first, last)) <= 2 * count - 1


@pytest.mark.parametrize(
    "arguments, epochs, counts, returns",
    [
        pytest.param((1, 0.0, 0.5), 2, {5: 522}, (), id="one phase: dense training, then magnitude pruning"),
        pytest.param((2, 0.25, 0.25), 4, {5: 522, 15: 522}, (10,), id="two phases, all weights between them"),
    ],
)
def test_training_equals_a_slow_reference(arguments, epochs, counts, returns):
    """The reference prunes by a sorted list after the last of the five steps of an epoch."""
    assert phases(epochs, *arguments) == sorted(step // 5 for step in (*counts, *returns))
    found = []
    for reference in (False, True):
        torch.manual_seed(0)
        module = Classifier(plain(10, channels=1), 10, SGD.model_copy(update={"milestones": []}), epochs, ["test"])
        if reference:
            module.configure_optimizers = lambda m=module: SlowPruning(m.network, counts, returns)
        alternating = AlternatingPhases(
            prunable_layers(module.network), 522, lambda epoch: compressed(epochs, *arguments, epoch)
        )
        callbacks = [] if reference else [FixedMask(), alternating]
        trainer(callbacks, epochs=epochs).fit(module, batches(320), [batches(64)])
        found.append(module.network)
    assert sum(int(mask.sum()) for mask in masks_of(found[0]).values()) == 522 == round(0.2 * TOTAL)
    for (name, value), wanted in zip(found[0].named_parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def run(launch, only_run, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests/runs")

    def do(*words):
        status, printed = launch(*SMALL, *words)
        assert status == 0, printed
        return only_run()

    return do


def test_weights_return_in_decompressed_phases(run):
    """Compressed in the first and the third of three epochs, from a sparse source, and another mask at the end."""
    folder = run("method=acdc", "sparsity=erk", "sparsity.level=0.5", "trainer.max_epochs=3", "method.phases=2",
                 "method.dense_first=0", "method.sparse_last=0.3")  # fmt: skip
    record, realised = read(folder), [float(row["mask/sparsity"]) for row in rows(folder)]
    kept = round(0.1 * TOTAL)
    source = 1 - sum(layer["drawn"] for layer in record["layers"]) / TOTAL
    assert realised == pytest.approx([1 - kept / TOTAL, source, 1 - kept / TOTAL])
    assert sum(layer["nonzero"] for layer in record["layers"]) == kept


@pytest.mark.parametrize("words", [["method=str", "method.initial=-3"], ["method=spred", "method.threshold=0.01"]])
def test_zeros_are_the_mask_and_the_sparsity_is_recorded(run, words):
    folder = run(*words, "trainer.max_epochs=2", "optimizer.weight_decay=0.01")
    state, record = load_file(folder / "network.safetensors"), read(folder)
    for name, mask in state.items():
        if name.endswith("_mask"):
            weight = state[name.removesuffix("_mask")]
            assert weight.ne(0).equal(mask) and (words[0] == "method=str" or weight[mask].abs().min() > 0.01)
    by_epoch = [float(row["mask/sparsity"]) for row in rows(folder)]
    assert len(by_epoch) == 2 and by_epoch[-1] == pytest.approx(record["sparsity"]["realised"])
    assert 0.05 < by_epoch[-1] < 1
    assert record["sparsity"]["nominal"] == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["method=acdc", "method.phases=0"], "method.phases=0: must lie in [1, inf)"),
        (["method=acdc", "method.dense_first=0.9"], "method.sparse_last=0.15: must be at most 1 - method.dense_first"),
        (["method=acdc", "sparsity=erk", "sparsity.level=0.95"], "method.final_sparsity=0.9: must be at least the"),
        (["method=str", "optimizer.weight_decay=0"], "optimizer.weight_decay=0.0: must be above 0 with method=str"),
        (["method=spred", "optimizer.ham.beta=1"], "optimizer.ham.beta=1.0: must be 0 with method=spred"),
        (["method=spred", "trainer.execution=sparse"], "trainer.execution=sparse: must be auto, masked, compiled or"),
    ],
)
def test_invalid_settings_are_refused(refusal, words, message):
    assert refusal(*words).startswith(message)
