"""Drawing against the binomial distribution. Bounds fail by chance once in 10^6, split over what a test compares."""

import copy
import io

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from ersparse import models
from ersparse.errors import UserError
from ersparse.sparse import mask as M
from ersparse.sparse.density import erk, pyramidal
from ersparse.sparse.keep import keep
from ersparse.sparse.layers import Layer, prunable_layers, prunable_weights
from ersparse.sparse.rng import generator
from ersparse.sparse.source import ERSource

ODDS = 1e-6


def two_sided(probability_below: float) -> float:
    """The odds of a value at least so extreme, from P(X <= value) of a continuous distribution."""
    return 2 * min(probability_below, 1 - probability_below)


def binomial_odds(count: int, n: int, p: float) -> float:
    distribution = stats.binom(n, p)
    return 2 * min(distribution.cdf(count), distribution.sf(count - 1))


@pytest.mark.parametrize("rule, p", [(erk, 0.01), (pyramidal, 0.1)])
def test_bernoulli_counts_follow_the_binomial_distribution(rule, p):
    layers = prunable_layers(models.vgg16(10))
    densities = rule(layers, p)
    masks = ERSource(layers, densities, p, seed=np.random.randint(10**9)).draw()
    for layer, density in zip(layers, densities, strict=True):
        assert binomial_odds(int(masks[layer.name].sum()), layer.size, density) > ODDS / len(layers)


def variance_odds(draw) -> float:
    """The odds of the variance of 500 counts, if they were binomial; (n-1) s^2 / var is nearly chi-squared."""
    layer, p, draws = Layer("l", (64, 32, 3, 3)), 0.3, 500
    start = np.random.randint(10**9)
    counts = [int(draw(layer, p, generator(start + i, "l")).sum()) for i in range(draws)]
    statistic = (draws - 1) * np.var(counts, ddof=1) / (layer.size * p * (1 - p))
    return two_sided(stats.chi2.cdf(statistic, draws - 1))


def test_bernoulli_counts_have_binomial_variance():
    assert variance_odds(M.draw_bernoulli) > ODDS


def test_exact_counts_fail_the_variance_test():
    assert variance_odds(M.draw_exact) < ODDS


@pytest.mark.parametrize("draw", [M.draw_bernoulli, M.draw_exact])
def test_every_position_is_equally_likely(draw):
    """Counts of each of 60 weights in 4000 draws at density 0.25."""
    layer, draws, start = Layer("l", (5, 4, 3)), 4000, np.random.randint(10**9)
    kept = sum(draw(layer, 0.25, generator(start + i)).double() for i in range(draws)).flatten().numpy()
    for count in kept:
        assert binomial_odds(int(count), draws, 0.25) > ODDS / layer.size


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.1234, 0.5, 1.0])
def test_exact_draws_the_rounded_count(p):
    layer = Layer("l", (17, 13, 3, 3))
    assert int(M.draw_exact(layer, p, generator(3)).sum()) == round(p * layer.size)


def test_a_mask_depends_on_seed_and_layer_name_only():
    layers = [Layer("a", (8, 8)), Layer("b", (8, 8))]
    both = ERSource(layers, [0.5, 0.5], 0.5, seed=1).draw()
    alone = ERSource(layers[1:], [0.5], 0.5, seed=1).draw()
    assert both["b"].equal(alone["b"])
    assert not both["a"].equal(both["b"])
    assert not ERSource(layers, [0.5, 0.5], 0.5, seed=2).draw()["b"].equal(both["b"])


def test_masks_are_buffers_updated_in_place():
    module = nn.Sequential(nn.Linear(4, 3))
    M.attach(module, {"0.weight": torch.ones(3, 4, dtype=torch.bool)})
    buffer = module[0].weight_mask
    M.attach(module, {"0.weight": torch.eye(3, 4, dtype=torch.bool)})
    assert module[0].weight_mask is buffer and int(buffer.sum()) == 3
    assert "0.weight_mask" in module.state_dict()
    assert M.masks_of(module)["0.weight"].data_ptr() == buffer.data_ptr()


def test_enforce_sets_removed_weights_to_positive_zero():
    module = nn.Linear(4, 3)
    M.attach(module, {"weight": torch.eye(3, 4, dtype=torch.bool)})
    with torch.no_grad():
        module.weight.fill_(-1.0)
        module.weight[0, 1] = float("nan")
    M.enforce(module)
    removed = module.weight.detach()[~module.weight_mask]
    assert removed.eq(0).all() and not removed.signbit().any()
    assert module.weight.detach()[module.weight_mask].eq(-1).all()


def removed_weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach()[~mask] for weight, mask in M.masked_weights(module)])


def pickled(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def masked(*layers: nn.Module) -> nn.Sequential:
    """Return a network with masks of density 1/2, which hold after loading."""
    network = nn.Sequential(*layers)
    random = torch.Generator().manual_seed(0)
    M.attach(network, {n: torch.rand(x.shape, generator=random) < 0.5 for n, x in shapes(network).items()})
    M.enforce(network)
    M.enforce_on_load(network)
    return network


def shapes(network: nn.Module) -> dict[str, Layer]:
    return {layer.name: layer for layer in prunable_layers(network)}


@pytest.mark.parametrize("copied", [lambda network: network, copy.deepcopy, pickled, lambda network: network.double()])
@pytest.mark.parametrize(
    "load",
    [
        lambda network, dense: network.load_state_dict(dense, strict=False),
        lambda network, dense: network.load_state_dict(dense, strict=False, assign=True),
        lambda network, dense: network[2].load_state_dict({"weight": dense["2.weight"]}, strict=False),
        lambda network, dense: nn.ModuleDict({"a": network}).load_state_dict(
            {f"a.{name}": tensor for name, tensor in dense.items()}, strict=False
        ),
        lambda network, dense: torch.compile(network).load_state_dict(
            {f"_orig_mod.{name}": tensor for name, tensor in dense.items()}, strict=False
        ),
    ],
)
def test_loaded_dense_weights_stay_removed(load, copied):
    network = copied(masked(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    dense = {name: torch.full_like(p, -2.0) for name, p in network.named_parameters()}
    load(network, dense)
    assert removed_weights(network).eq(0).all()
    assert network[2].weight[network[2].weight_mask].eq(-2).all(), "kept weights are loaded"


def test_a_failed_strict_load_and_loaded_masks_leave_no_removed_weight():
    network, other = masked(nn.Linear(6, 6)), nn.Sequential(nn.Linear(6, 6))
    with pytest.raises(RuntimeError, match="weight_mask"):
        network.load_state_dict(other.state_dict())
    assert removed_weights(network).eq(0).all()
    buffer = network[0].weight_mask
    network.load_state_dict(other.state_dict() | {"0.weight_mask": torch.eye(6).bool()})
    assert network[0].weight_mask is buffer and buffer.equal(torch.eye(6).bool())
    assert removed_weights(network).eq(0).all()


def test_the_load_hook_is_registered_once():
    network = masked(nn.Linear(6, 6))
    keep(network, torch.optim.SGD(network.parameters(), 0.1))
    assert len(network[0]._load_state_dict_post_hooks) == 1


class Centred(nn.Module):
    def forward(self, weight):
        return weight - weight.mean()


class Unchanged(nn.Module):
    def forward(self, weight):
        return weight


REPARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm by hooks": nn.utils.spectral_norm,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Centred()),
    "own that changes nothing": lambda layer: parametrize.register_parametrization(layer, "weight", Unchanged()),
}


@pytest.mark.parametrize("way", REPARAMETRISED)
@pytest.mark.parametrize("layers", [lambda: nn.Linear(8, 8), lambda: nn.Conv2d(8, 8, 1)])
def test_a_weight_that_is_reparametrised_after_its_mask_is_refused(way, layers):
    network = masked(layers(), nn.ReLU(), layers())
    dense = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    keep(network, optimizer)
    REPARAMETRISED[way](network[2])
    for action in (
        lambda: keep(network, optimizer),
        lambda: M.enforce(network),
        lambda: optimizer.step(),
        lambda: network.load_state_dict(dense, strict=False),
    ):
        with pytest.raises(UserError, match=r"^(2\.)?weight: is computed from other tensors since its mask") as error:
            action()
        assert "\n" not in str(error.value)


def test_parametrizations_of_biases_and_other_layers_are_allowed():
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    M.attach(network, {"0.weight": torch.eye(8).bool()})
    parametrize.register_parametrization(network[0], "bias", Centred())
    parametrizations.weight_norm(network[2])
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    keep(network, optimizer)
    network(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    assert network[0].weight.detach()[~torch.eye(8).bool()].eq(0).all()


def test_every_computed_weight_is_found():
    """Each access to a computed weight may create a tensor at the same address."""
    network = nn.Sequential(*[parametrizations.weight_norm(nn.Linear(4, 4)) for _ in range(5)])
    assert list(prunable_weights(network)) == [f"{i}.weight" for i in range(5)]


def test_shuffling_preserves_the_count():
    before = M.draw_exact(Layer("l", (9, 8, 3)), 0.3, generator(0))
    after = M.shuffled(before, generator(1))
    assert after.shape == before.shape and after.sum() == before.sum() and not after.equal(before)


def test_digest_distinguishes_masks():
    one = {"a": torch.tensor([True, False]), "b": torch.tensor([True])}
    assert M.digest(one) == M.digest(dict(reversed(one.items())))
    assert M.digest(one) != M.digest({"a": torch.tensor([True, True]), "b": torch.tensor([True])})
    assert M.digest(one) != M.digest({"a": torch.tensor([[True, False]]), "b": torch.tensor([True])})


def test_density_counts_kept_weights():
    assert M.density_of({"a": torch.tensor([True, False]), "b": torch.tensor([False, False])}) == 0.25
    assert M.density_of({}) == 1.0


def test_fingerprints_differ_for_masks_that_differ_in_one_weight_or_in_its_place():
    mask = torch.rand(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    others = []
    for position in range(mask.numel()):
        other = mask.clone()
        other.view(-1)[position] ^= True
        others.append(other)
    swapped = mask.flip(0)
    found = M.fingerprint({str(number): each for number, each in enumerate([mask, *others, swapped])})
    assert len(set(found.tolist())) == len(found) and found.dtype == torch.int64
    assert M.fingerprint({"a": mask.to(memory_format=torch.channels_last)}) == found[0]
