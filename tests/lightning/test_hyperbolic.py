"""Hyperbolic-aware minimisation (HAM): one step by hand, whole training against a slow reference, and identities."""

import math

import pytest
import torch
from fitting import SGD, batches, trainer
from runs.plain import plain

from ersparse.config.optimizer_settings import HamSettings
from ersparse.lightning.callbacks import ERInit, FixedMask
from ersparse.lightning.classifier import Classifier
from ersparse.sparse.density import uniform
from ersparse.sparse.hyperbolic import hyperbolic_step
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.source import ERSource


def test_a_step_by_hand():
    """With lr = 0.1, α = 2, β = 0.5, exponents are −0.2 sign(w) ∇ − 0.05; the last two reach the limits."""
    weight = torch.tensor([1.0, -1.0, 0.0, 2.0, 4.0, 4.0], dtype=torch.float64)
    gradient = torch.tensor([3.0, 3.0, 3.0, 0.0, 100.0, -100.0], dtype=torch.float64)
    hyperbolic_step([weight], [gradient], 0.1, 2.0, 0.5)
    by_hand = [math.exp(-0.65), -math.exp(0.55), 0.0, 2 * math.exp(-0.05), 4 * math.exp(-5), 4 * math.exp(5)]
    assert weight.tolist() == pytest.approx(by_hand, rel=1e-15)


def test_without_alpha_and_beta_nothing_changes():
    weights, gradients = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    before = weights.clone()
    hyperbolic_step([weights], [gradients], 0.1, 0.0, 0.0)
    assert weights.equal(before)


def trained(ham, reference=False):
    """Train a masked network for five steps; the reference computes every step from the gradients, weight by weight."""
    torch.manual_seed(0)
    network = plain(10, channels=1)
    layers = prunable_layers(network)
    settings = SGD.model_copy(update={"layers": {"0.*": {"lr": 0.05}}, "ham": HamSettings(**ham)})
    module = Classifier(network, 10, settings, 1, ["test"])
    if reference:
        module.configure_optimizers = lambda: SlowHam(network, settings)
    source = ERSource(layers, uniform(layers, 0.5), 0.5, seed=0)
    trainer([ERInit(source), FixedMask()], gradient_clip_val=1.0).fit(module, batches(320), [batches(64)])
    return network.state_dict()


class SlowHam(torch.optim.Optimizer):
    """SGD with momentum and weight decay, followed by HAM, one number at a time."""

    def __init__(self, network, settings):
        super().__init__(network.parameters(), {"lr": settings.lr})
        self.network, self.settings, self.momenta = network, settings, {}

    def step(self, closure=None):
        closure()
        settings = self.settings
        for name, p in self.network.named_parameters():
            lr = 0.05 if name.startswith("0.") else settings.lr
            values, gradients = p.detach().flatten().tolist(), p.grad.flatten().tolist()
            momenta = self.momenta.setdefault(name, [0.0] * len(values))
            for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
                momenta[i] = settings.momentum * momenta[i] + gradient + settings.weight_decay * value
                values[i] = value - lr * momenta[i]
                if p.dim() > 1 and values[i]:
                    sign = math.copysign(1, values[i])
                    values[i] *= math.exp(-lr * (settings.ham.alpha * sign * gradient + settings.ham.beta))
            p.data.copy_(torch.tensor(values).reshape(p.shape))


def test_training_equals_a_slow_reference():
    """Biases and normalisations have no hyperbolic step; groups have learning rates of their own."""
    ham = {"alpha": 20.0, "beta": 0.1}
    found, expected, plain_sgd = trained(ham), trained(ham, reference=True), trained({})
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    weights = [name for name, value in found.items() if value.dim() > 1 and value.is_floating_point()]
    assert len(weights) > 1 and not any(found[name].allclose(plain_sgd[name], rtol=1e-2) for name in weights)


@pytest.mark.parametrize(
    "words, message",
    [
        (["optimizer.ham.alpha=-1"], "optimizer.ham.alpha=-1: must lie in [0, inf)"),
        (["method=edge_popup", "optimizer.ham.beta=1"], "optimizer.ham.beta=1.0: must be 0 with method=edge_popup"),
    ],
)
def test_invalid_settings_are_refused(refusal, words, message):
    assert refusal(*words).startswith(message)
