"""Weights that are computed from trained parts: rules by hand and against autograd, and training against PyTorch's own
parametrizations."""

import math

import pytest
import pytorch_lightning as pl
import torch
from fitting import SGD, batches, trainer
from runs.plain import plain
from torch import nn
from torch.nn.utils import parametrize

from ersparse.lightning.callbacks import FixedMask
from ersparse.lightning.callbacks.parts import TrainedParts
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.reparametrization import Reparametrization
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import attach, enforce
from ersparse.sparse.reparametrization import Product, SoftThreshold


def test_factors_by_hand():
    """2² − √3² = 1; balanced factors have the weight's sign; a weight of zero has factors √β and 0."""
    weight = torch.tensor([2 * math.sqrt(3), -2 * math.sqrt(3), 0.0], dtype=torch.float64)
    first, second = Product(1.0).split(weight)
    assert first.tolist() == pytest.approx([2, 2, 1]) and second.tolist() == pytest.approx([3**0.5, -(3**0.5), 0])
    first, second = Product(0.0).split(torch.tensor([4.0, -4.0, 0.0]))
    assert first.tolist() == [2, 2, 0] and second.tolist() == [2, -2, 0]


def test_soft_thresholds_by_hand():
    """σ(0) = 0.5. Two of four weights are above it; the threshold's gradient is −(3·1 + 5·(−1)) / 4."""
    weight, rule = torch.tensor([1.0, -2.0, 0.4, -0.5], dtype=torch.float64), SoftThreshold(0.0)
    parts = rule.split(weight)
    assert rule.merge(*parts).tolist() == [0.5, -1.5, 0, 0]
    first, second = rule.gradients(torch.tensor([3.0, 5.0, 7.0, 9.0], dtype=torch.float64), *parts)
    assert first.tolist() == [3, 5, 0, 0] and second.tolist() == [0.5]


@pytest.mark.parametrize("rule", [Product(0.7), SoftThreshold(-1.0)])
def test_gradients_equal_those_of_autograd(rule):
    random = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 50, generator=random, dtype=torch.float64)
    parts = [part.requires_grad_() for part in rule.split(weight)]
    expected = torch.autograd.grad(rule.merge(*parts), parts, gradient)
    for found, wanted in zip(rule.gradients(gradient, *parts), expected, strict=True):
        torch.testing.assert_close(found.reshape(wanted.shape), wanted)


def test_gradient_flow_has_its_closed_form_and_keeps_the_inner_scale():
    """With a constant gradient g, m ± w is (m₀ ± w₀) exp(∓ g t)."""
    rule, gradient = Product(1.0), torch.tensor([0.5, -2.0], dtype=torch.float64)
    m, w = (part.clone() for part in rule.split(torch.tensor([0.3, 0.1], dtype=torch.float64)))
    grown, shrunk = (m + w) * torch.exp(-gradient), (m - w) * torch.exp(gradient)
    for _ in range(100_000 // 10):
        dm, dw = rule.gradients(gradient, m, w)
        m, w = m - 1e-4 * dm, w - 1e-4 * dw
    torch.testing.assert_close(rule.merge(m, w), (grown**2 - shrunk**2) / 4, rtol=2e-3, atol=0)
    torch.testing.assert_close(m**2 - w**2, torch.ones(2, dtype=torch.float64), rtol=2e-3, atol=0)


class Multiplied(nn.Module):
    """PyTorch's parametrization of a weight as a product, with a mask."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, m, w):
        return m * w * self.mask

    def right_inverse(self, weight):
        root = (1 + 4 * weight**2) ** 0.5
        m = ((1 + root) / 2) ** 0.5
        return m, weight / m


class Thresholded(nn.Module):
    """PyTorch's parametrization of a weight by a trained soft threshold, with a mask."""

    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, v, s):
        return torch.sign(v) * torch.relu(v.abs() - torch.sigmoid(s)) * self.mask

    def right_inverse(self, weight):
        return weight, torch.full((1,), -3.0)


class ResetEachEpoch(pl.Callback):
    def on_train_epoch_start(self, trainer, module):
        for layer in module.network.modules() if trainer.current_epoch else ():
            if parametrize.is_parametrized(layer):
                layer.weight = layer.weight.detach().clone()


def network_and_masks():
    torch.manual_seed(0)
    network = plain(10, channels=1)
    masks = {layer.name: torch.rand(layer.shape) < 0.5 for layer in prunable_layers(network)}
    attach(network, masks)
    enforce(network)
    return network, masks


@pytest.mark.parametrize("rule, reference_rule", [(Product(1.0), Multiplied), (SoftThreshold(-3.0), Thresholded)])
def test_training_equals_pytorchs_parametrizations(rule, reference_rule):
    """Two epochs with momentum, weight decay of the parts, clipping, accumulation, and a reset of factors."""
    resets = reference_rule is Multiplied
    network, masks = network_and_masks()
    module = Classifier(network, 10, SGD, 2, ["test"])
    module.reparametrization = Reparametrization(dict.fromkeys(masks, rule))
    options = {"epochs": 2, "gradient_clip_val": 1.0, "accumulate_grad_batches": 2}
    trainer([FixedMask(), *([TrainedParts(1)] if resets else [])], **options).fit(module, batches(320), [batches(64)])

    reference, _ = network_and_masks()
    for name, mask in masks.items():
        layer = reference.get_submodule(name.removesuffix(".weight"))
        del layer._buffers["weight_mask"]
        parametrize.register_parametrization(layer, "weight", reference_rule(mask))
    callbacks = [ResetEachEpoch()] if resets else []
    compared = Classifier(reference, 10, SGD, 2, ["test"])
    trainer(callbacks, **options).fit(compared, batches(320), [batches(64)])
    for name, mask in masks.items():
        found, wanted = network.get_parameter(name), reference.get_submodule(name.removesuffix(".weight")).weight
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert not found[~mask].any() and found[mask].all() == resets


def test_weights_near_zero_move_as_without_factors():
    """At zero the first step is the same, with momentum and without; elsewhere it is √(1 + 4 θ²) times as long."""
    for start in (0.0, 0.4):
        steps = []
        for reparametrized in (False, True):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            nn.init.constant_(network[1].weight, start)
            module = Classifier(network, 10, SGD.model_copy(update={"weight_decay": 0.0, "lr": 1e-3}), 1, ["test"])
            if reparametrized:
                module.reparametrization = Reparametrization({"1.weight": Product(1.0)})
            trainer([], limit_train_batches=1).fit(module, batches(64), [batches(64)])
            steps.append(network[1].weight.detach() - start)
        torch.testing.assert_close(steps[1], steps[0] * math.sqrt(1 + 4 * start**2), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    "words, message",
    [
        (["method.factors.scale=0"], "method.factors.scale=0: must lie in (0, inf)"),
        (["optimizer.ham.alpha=1"], "optimizer.ham.alpha=1.0: must be 0 with method.reparametrization=sign_in"),
        (
            ["method=rigl", "method.skip_step=true"],
            "method.skip_step=true: must be false with method.re",
        ),
        (
            ["method=rigl", "method.grown_state=keep"],
            "method.grown_state=keep: must be zero with method.re",
        ),
        (["method=rigl", "method.redistribute=momentum"], "method.redistribute=momentum: must be none, gradient or "),
        (["method=set", "trainer.execution=sparse"], "trainer.execution=sparse: must be auto, masked or compiled with"),
    ],
)
def test_invalid_settings_are_refused(refusal, words, message):
    assert refusal(*words, "method.reparametrization=sign_in").startswith(message)
