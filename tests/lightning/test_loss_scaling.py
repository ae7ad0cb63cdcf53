"""Rewiring with precision 16-mixed, on the CPU, where PyTorch's gradient scaler works as on a GPU."""

import pytest
import pytorch_lightning as pl
import torch
from fitting import SGD, batches, trainer
from lightning.test_operations import RULES
from pytorch_lightning.plugins import MixedPrecision
from runs.plain import plain

from ersparse.lightning.callbacks import ERInit, FixedMask
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.classifier import Classifier
from ersparse.sparse.density import uniform
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import density_of, digest, masks_of
from ersparse.sparse.source import ERSource


class Steps(pl.Callback):
    """Notes masks and weights after each step, and can let the gradients of one step overflow."""

    def __init__(self, overflow):
        self.overflow, self.masks, self.weights = overflow, [], []

    def on_after_backward(self, trainer, module):
        if trainer.global_step + 1 == self.overflow:
            next(module.parameters()).grad[0] = torch.inf

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.masks.append(digest(masks_of(module.network)))
        self.weights.append(torch.cat([weight.detach().flatten() for weight in module.parameters()]))


def trained(overflow, fused=True, **rules):
    torch.manual_seed(0)
    network = plain(10, channels=1)
    layers = prunable_layers(network)
    module = Classifier(network, 10, SGD, 1, ["test"])
    if not fused:
        module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.1)
    steps = Steps(overflow)
    rewiring = Rewiring(RULES.model_copy(update={"delta_t": 2, "t_end": 1.0, **rules}), layers, 0)
    steps.rewiring, steps.network = rewiring, network
    callbacks = [ERInit(ERSource(layers, uniform(layers, 0.5), 0.5, seed=0)), FixedMask(), rewiring, steps]
    precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    trainer(callbacks, plugins=[precision]).fit(module, batches(320), [batches(64)])
    return steps


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("skip_step", [True, False])
def test_updates_take_place_at_their_steps(skip_step, fused):
    steps = trained(None, fused, skip_step=skip_step)
    assert [a != b for a, b in zip(steps.masks, steps.masks[1:], strict=False)] == [True, False, True, False]
    assert all(weights.isfinite().all() for weights in steps.weights) and not steps.rewiring.left_out


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("skip_step", [True, False])
def test_a_step_whose_gradients_overflow_leaves_masks_and_weights_as_they_are(skip_step, fused):
    steps = trained(2, fused, skip_step=skip_step)
    assert steps.masks[0] == steps.masks[1] and torch.equal(steps.weights[0], steps.weights[1])
    assert steps.masks[2] != steps.masks[3], "the next update takes place"
    assert steps.rewiring.left_out == [2] == steps.rewiring.state_dict()["left_out"]
    assert all(weights.isfinite().all() for weights in steps.weights)


@pytest.mark.parametrize("overflow, lines", [(None, 0), (2, 1)])
def test_pruning_that_misses_the_final_density_is_told(overflow, lines, caplog):
    """The last pruning is that of step 2 of 5, half-way."""
    steps = trained(overflow, skip_step=False, t_end=0.0, grow="random", final_sparsity=0.75, prune_until=0.5)
    assert steps.rewiring.last_pruning_step == 2
    kept = density_of(masks_of(steps.network))
    told = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert len(told) == lines and (kept == pytest.approx(0.5 if overflow else 0.25, abs=0.02))
    if told:
        assert told[0].endswith(f"sparsity ends at {1 - kept:.6g}, not at method.final_sparsity=0.75")
