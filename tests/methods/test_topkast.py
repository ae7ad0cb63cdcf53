"""Top-KAST: a step by hand, training against a slow reference, exact counts, and the identity with dense training."""

import pytest
import torch
from conftest import ROOT, read, rows
from fitting import SGD, batches, trainer
from methods.test_gradual_pruning import TOTAL
from runs.plain import plain
from safetensors.torch import load_file

from ersparse.lightning.callbacks import FixedMask
from ersparse.lightning.callbacks.zeros_as_mask import ZerosAsMask
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.reparametrization import Reparametrization
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import masks_of
from ersparse.sparse.reparametrization import LargestOf

SMALL = ["model._target_=plain.plain", "model.name=plain", "dataset.batch_size=256", "trainer.max_epochs=2"]
COUNTS = {"0.weight": (14, 29), "2.weight": (231, 461), "6.weight": (16, 32)}  # of 261 and 522


def test_a_step_by_hand():
    """A has two of five entries, so the decay of the third, which B has as well, is divided by 2/5."""
    rule, values = LargestOf(2, 3, 0.1), torch.tensor([1.0, -4.0, 0.5, 3.0, -2.0], dtype=torch.float64)
    assert rule.merge(*rule.split(values)).tolist() == [0, -4, 0, 3, 0]
    (found,) = rule.gradients(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64), values)
    assert found.tolist() == pytest.approx([0, 2 - 0.4, 0, 4 + 0.3, 5 - 0.2 / 0.4])


class SlowTopKast(torch.optim.SGD):
    """SGD on copies of the weights, of which the network gets those that come first in a sorted list."""

    def __init__(self, network):
        self.weights = [p for p in network.parameters() if p.dim() > 1]
        self.values = [w.detach().clone() for w in self.weights]
        others = [p for p in network.parameters() if p.dim() == 1]
        groups = [{"params": self.values, "weight_decay": 0.0}, {"params": others}]
        super().__init__(groups, SGD.lr, SGD.momentum, weight_decay=SGD.weight_decay)
        self.show()

    def order(self, values):
        return sorted(range(values.numel()), key=lambda i: -abs(values.flatten()[i].item()))

    @torch.no_grad()
    def show(self):
        for weight, values, (used, _) in zip(self.weights, self.values, COUNTS.values(), strict=True):
            kept = set(self.order(values)[:used])
            listed = [value if i in kept else 0.0 for i, value in enumerate(values.flatten().tolist())]
            weight.copy_(torch.tensor(listed).reshape(weight.shape))

    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for weight, values, (used, trained) in zip(self.weights, self.values, COUNTS.values(), strict=True):
            gradient, listed = torch.zeros(values.numel()), values.flatten()
            for place, i in enumerate(self.order(values)[:trained]):
                share = 1.0 if place < used else used / values.numel()
                gradient[i] = weight.grad.flatten()[i] + SGD.weight_decay * listed[i] / share
            values.grad, weight.grad = gradient.reshape(values.shape), None
        super().step()
        self.show()
        return loss


def test_training_equals_a_slow_reference():
    found = []
    for reference in (False, True):
        torch.manual_seed(0)
        module, callbacks = Classifier(plain(10, channels=1), 10, SGD, 1, ["test"]), []
        if reference:
            module.configure_optimizers = lambda m=module: SlowTopKast(m.network)
        else:
            settings = SGD.model_copy(update={"layers": {name: {"weight_decay": 0.0} for name in COUNTS}})
            module.optimizer_settings = settings
            rules = {name: LargestOf(*counts, SGD.weight_decay) for name, counts in COUNTS.items()}
            module.reparametrization = Reparametrization(rules)
            callbacks = [FixedMask(), ZerosAsMask(prunable_layers(module.network), 0.0)]
        trainer(callbacks).fit(module, batches(320), [batches(64)])
        found.append(module)
    for (name, value), wanted in zip(found[0].network.named_parameters(), found[1].network.parameters(), strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    kept = {name: int(mask.sum()) for name, mask in masks_of(found[0].network).items()}
    assert kept == {name: used for name, (used, _) in COUNTS.items()}


@pytest.fixture
def run(launch, tmp_path, monkeypatch):
    """Does a run in a folder of its own."""
    monkeypatch.syspath_prepend(ROOT / "tests/runs")

    def do(name, *words):
        status, printed = launch(*SMALL, *words, f"paths.root={tmp_path}/{name}")
        assert status == 0, printed
        return next((tmp_path / name).rglob("run.json")).parent

    return do


def test_every_epoch_has_the_sparsity_asked_for_and_other_weights_come_in(run):
    """With a backward set as large as the forward one, the largest weights at the start are those at the end."""
    masks = []
    for backward in (0.8, 0.9):
        folder = run(f"{backward}", "method=topkast", f"method.backward_sparsity={backward}", "optimizer.lr=0.3")
        assert [layer["nonzero"] for layer in read(folder)["layers"]] == [used for used, _ in COUNTS.values()]
        assert [float(row["mask/sparsity"]) for row in rows(folder)] == pytest.approx([1 - 261 / TOTAL] * 2)
        state = load_file(folder / "network.safetensors")
        assert all(state[name][~state[f"{name}_mask"]].eq(0).all() for name in COUNTS)
        masks.append(torch.cat([state[f"{name}_mask"].flatten() for name in COUNTS]))
    assert (masks[0] & ~masks[1]).any()


def test_without_sparsity_it_is_dense_training(run):
    """The rule's weight decay is then that of the optimizer."""
    states = [
        load_file(run(word, f"method={word}", "sparsity=dense", *words) / "network.safetensors")
        for word, words in (("fixed", []), ("topkast", ["method.final_sparsity=1e-9", "method.backward_sparsity=0"]))
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_weight_decay_of_layers_is_that_of_their_rules(run, monkeypatch):
    found = []
    monkeypatch.setattr(Reparametrization, "merge", lambda self: found.append(self.rules))
    run(
        "x",
        "method=topkast",
        "trainer.max_epochs=1",
        "optimizer.no_decay=[0.weight]",
        "optimizer.layers={2.*: {weight_decay: 0.25}}",
    )
    assert [rule.decay for rule in found[0].values()] == [0.0, 0.25, 5e-4]


@pytest.mark.parametrize(
    "words, message",
    [
        (["method.backward_sparsity=0.95"], "method.backward_sparsity=0.95: must be at most method.final_sparsity=0.9"),
        (["sparsity=erk"], "sparsity=erk: must be dense with method=topkast"),
        (["optimizer.ham.alpha=1"], "optimizer.ham.alpha=1.0: must be 0 with method=topkast"),
        (["trainer.execution=sparse"], "trainer.execution=sparse: must be auto, masked, compiled or"),
    ],
)
def test_invalid_settings_are_refused(refusal, words, message):
    assert refusal("method=topkast", *words).startswith(message)
