"""Callbacks under a real Trainer."""

import pytest
import pytorch_lightning as pl
import torch
from fitting import SGD, batches, optimizer, trainer
from torch.nn import functional as F

from ersparse.lightning.callbacks import ERInit, FixedMask, FlowRepair
from ersparse.lightning.classifier import Classifier
from ersparse.models import resnet20
from ersparse.sparse.density import erk
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import masked_weights
from ersparse.sparse.source import ERSource


class Watch(pl.Callback):
    """Checks the weights before each forward pass and after each step."""

    def __init__(self):
        self.looks, self.moved, self.rates = 0, False, []

    def look(self, trainer, module, *_):
        for weight, mask in masked_weights(module.network):
            assert weight.detach()[~mask].eq(0).all() and not weight.detach()[~mask].signbit().any()
        self.looks += 1

    on_train_batch_start = on_train_batch_end = look

    def on_train_epoch_start(self, trainer, module):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("name", ["adam", "lion"])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_removed_weights_are_zero_at_every_step(name, options):
    network = resnet20(10, channels=1)
    source = ERSource(prunable_layers(network), erk(prunable_layers(network), 0.1), 0.1, seed=0)
    module = Classifier(network, 10, optimizer(name), 1, ["test"])
    repair, watch = FlowRepair(source), Watch()
    before = [p.detach().clone() for p in network.parameters()]
    trainer([ERInit(source), repair, FixedMask(), watch], **options).fit(module, batches(), [batches(64)])
    assert watch.looks == 8
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert repair.counts.keys() == {layer.name for layer in source.layers}


def test_without_fixed_mask_removed_weights_change():
    """The same check fails without the callback, so the test above can fail."""
    network = resnet20(10, channels=1)
    source = ERSource(prunable_layers(network), erk(prunable_layers(network), 0.1), 0.1, seed=0)
    module = Classifier(network, 10, SGD, 1, ["test"])
    with pytest.raises(AssertionError):
        trainer([ERInit(source), FlowRepair(source), Watch()]).fit(module, batches(), [batches(64)])


@pytest.mark.parametrize(("epochs", "rates"), [(8, [0.1] * 4 + [0.01] * 2 + [0.001] * 2), (1, [0.1])])
def test_milestones_are_fractions_of_the_run(epochs, rates):
    watch = Watch()
    module = Classifier(resnet20(10, channels=1), 10, SGD, epochs, ["test"])
    trainer([watch], epochs=epochs).fit(module, batches(64), [batches(64)])
    assert watch.rates == pytest.approx(rates)


def test_metrics_match_a_plain_training_loop():
    module = Classifier(resnet20(10, channels=1), 10, SGD, 1, ["test"])
    fitted = trainer([])
    fitted.fit(module, batches(), [batches(200, 64)])
    module.eval()
    with torch.no_grad():
        results = [(module(x), y) for x, y in batches(200, 64)]
    logits, labels = torch.cat([r for r, _ in results]), torch.cat([y for _, y in results])
    assert fitted.callback_metrics["test/acc"].item() == pytest.approx(
        (logits.argmax(1) == labels).double().mean().item()
    )
    assert fitted.callback_metrics["test/loss"].item() == pytest.approx(
        F.cross_entropy(logits, labels).item(), rel=1e-5
    )
