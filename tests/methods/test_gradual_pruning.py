"""Gradual magnitude pruning: a slow reference, exact counts, and the identity with GraNet that never rewires."""

import pytest
import torch
from conftest import ROOT, read
from fitting import SGD, batches, trainer
from runs.plain import plain
from safetensors.torch import load_file

from ersparse.lightning.callbacks import FixedMask
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.classifier import Classifier
from ersparse.loops.rewire import rewiring_rules
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import masks_of

SMALL = [
    "model._target_=plain.plain", "model.name=plain", "dataset.batch_size=256", "trainer.max_epochs=2",
    "method.delta_t=2",
]  # fmt: skip
TOTAL = 16 * 9 + 16 * 16 * 9 + 160


class SlowPruning(torch.optim.SGD):
    """SGD whose steps end with pruning by a sorted list of all magnitudes; step numbers are written out by hand.

    Of five steps the second and the fourth prune, on 1 − 0.8 (1 − (1 − t)³) of all weights with t = 1/2 and 1: 2608 are
    reduced to 782 and 522. The part of the training before which nothing is pruned is no step. After the steps in
    `returns`, all weights are trained again.
    """

    def __init__(self, network, counts=None, returns=()):
        super().__init__(network.parameters(), SGD.lr, SGD.momentum, weight_decay=SGD.weight_decay)
        self.weights = [p for p in network.parameters() if p.dim() > 1]
        self.removed, self.count, self.counts, self.returns = set(), 0, counts or {2: 782, 4: 522}, returns

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.count += 1
        values = [abs(value) for w in self.weights for value in w.contiguous().flatten().tolist()]
        if self.count in self.counts:
            left = sorted(set(range(len(values))) - self.removed, key=lambda i: -values[i])
            self.removed |= set(left[self.counts[self.count] :])
        kept = torch.tensor([i not in self.removed for i in range(len(values))])
        for w, part in zip(self.weights, kept.split([w.numel() for w in self.weights]), strict=True):
            w *= part.reshape(w.shape)
            self.state[w]["momentum_buffer"] *= part.reshape(w.shape)
        if self.count in self.returns:
            self.removed = set()


def test_training_equals_a_slow_reference():
    found = []
    for reference in (False, True):
        torch.manual_seed(0)
        module = Classifier(plain(10, channels=1), 10, SGD, 1, ["test"])
        if reference:
            module.configure_optimizers = lambda m=module: SlowPruning(m.network)
        rules = rewiring_rules(
            "granet", {"t_end": 0.0, "delta_t": 2, "final_sparsity": 0.8, "prune_until": 0.8, "grow": "random"}
        )
        callbacks = [] if reference else [FixedMask(), Rewiring(rules, prunable_layers(module.network), 0)]
        trainer(callbacks).fit(module, batches(320), [batches(64)])
        found.append(module)
    for (name, value), wanted in zip(found[0].network.named_parameters(), found[1].network.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    masks = masks_of(found[0].network)
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.2 * TOTAL)


@pytest.fixture
def run(launch, tmp_path, monkeypatch):
    """Does a run in a folder of its own: (folder, what it printed)."""
    monkeypatch.syspath_prepend(ROOT / "tests/runs")

    def do(name, *words):
        status, printed = launch(*SMALL, *words, f"paths.root={tmp_path}/{name}")
        assert status == 0, printed
        return next((tmp_path / name).rglob("run.json")).parent, printed

    return do


@pytest.mark.parametrize("source", ["sparsity=dense", "sparsity=erk"])
def test_it_equals_granet_without_regrowth(run, source):
    """A drop fraction of less than one weight leaves GraNet nothing to drop or grow."""
    words = [source, "sparsity.level=0.5", "method.final_sparsity=0.9", "method.prune_until=0.7"]
    gmp, _ = run("gmp", "method=gmp", "method.prune_from=0.3", *words)
    granet, _ = run("granet", "method=granet", "method.drop_fraction=1e-9", "method.prune_from=0.3", *words)
    assert (gmp / "network.safetensors").read_bytes() == (granet / "network.safetensors").read_bytes()
    masks = [value for name, value in load_file(gmp / "network.safetensors").items() if name.endswith("_mask")]
    assert sum(int(mask.sum()) for mask in masks) == round(0.1 * TOTAL)
    steps = [line.split(",")[0] for line in (gmp / "rewiring.csv").read_text().splitlines()[1::3]]
    assert steps == ["0", "6", "8"], "of 12 steps, those between 0.3 and 0.7 of the training, after the first of them"


def test_layers_are_pruned_to_the_same_density(run):
    folder, _ = run("layers", "method=gmp", "method.prune_scope=layer", "method.final_sparsity=0.9")
    assert [layer["nonzero"] for layer in read(folder)["layers"]] == [14, 230, 16]


@pytest.mark.parametrize("method", ["gmp", "granet"])
def test_the_final_sparsity_is_reached_if_no_update_is_due(run, method):
    """It stayed that of the source: `delta_t` is longer than the training."""
    folder, _ = run(method, f"method={method}", "sparsity=dense", "method.delta_t=1000", "method.final_sparsity=0.9")
    assert sum(layer["nonzero"] for layer in read(folder)["layers"]) == round(0.1 * TOTAL)


@pytest.mark.parametrize(
    "words, message",
    [
        (["method.final_sparsity=0"], "method.final_sparsity=0: must lie in (0, 1)"),
        (["sparsity=erk", "sparsity.level=0.95"], "method.final_sparsity=0.9: must be at least the source's"),
        (["method.prune_from=0.75"], "method.prune_from=0.75: must be less than method.prune_until=0.75"),
        (
            ["sparsity=erk", "sparsity.level=0.5", "method.prune_scope=layer"],
            "method.prune_scope=layer: must be global",
        ),
        (
            ["trainer.execution=sparse", "trainer.devices=2", "trainer.accelerator=cpu"],
            "trainer.execution=sparse: must be auto, masked or compiled with method.final_sparsity on several devices",
        ),
    ],
)
def test_invalid_settings_are_refused(refusal, words, message):
    assert refusal("method=gmp", *words).startswith(message)


def test_a_method_that_never_rewires_nor_prunes_is_refused(refusal):
    assert refusal("method=rigl", "method.t_end=0").startswith("method.t_end=0: must lie in (0, 1]")
