"""Controls of initial weights and of width: what is transplanted, what stays, and how wide a narrow network is."""

import pytest
import torch
from conftest import TINY, planned, read
from safetensors.torch import load_file
from torch import nn

from ersparse.runs.network import build_network
from ersparse.runs.planner import make_plan
from ersparse.sparse.initialization import transplant
from ersparse.sparse.layers import prunable_layers


def test_a_transplant_by_hand():
    """Signs, including that of a weight whose own is zero; where the other weight is zero, nothing changes."""
    own, other = torch.tensor([[1.0, -2.0, 3.0, -4.0, 0.0]]), torch.tensor([[-9.0, 8.0, 0.0, -7.0, 6.0]])
    for what, expected in (("signs", [-1.0, 2.0, 3.0, -4.0, 0.0]), ("magnitudes", [9.0, -8.0, 3.0, -7.0, 6.0])):
        network = nn.Linear(5, 1)
        bias = network.bias.detach().clone()
        network.weight.data.copy_(own)
        transplant(network, {"weight": other, "bias": torch.zeros(1)}, what)
        assert network.weight.tolist() == [expected] and network.bias.equal(bias)


@pytest.mark.parametrize("control, mask", [("signs", "run"), ("magnitudes", "own")])
def test_a_run_starts_from_the_transplant_under_the_mask_that_was_asked_for(finished, control, mask):
    words = ["model.width=0.25", f"model.init_from={finished}", "sparsity=erk", "seeds.init=5"]
    plan = planned(*words, f"sparsity.control={control}", f"model.init_mask={mask}")
    assert plan.source.control == control if mask == "run" else plan.source.sampling == "bernoulli"
    network = build_network(plan.settings, plan.init_from)
    drawn = build_network(planned("model.width=0.25", "seeds.init=5").settings, None)
    other = load_file(finished / "network.safetensors")
    removed = 0
    for layer in prunable_layers(network):
        found, own, theirs = (state[layer.name] for state in (network.state_dict(), drawn.state_dict(), other))
        signs, magnitudes = (theirs, own) if control == "signs" else (own, theirs)
        kept = theirs != 0
        assert found[kept].equal(signs.sign()[kept] * magnitudes.abs()[kept]) and found[~kept].equal(own[~kept])
        assert kept.any() and not found.equal(own)
        removed += int((~kept).sum())
    assert removed > 10_000
    for name in ("bn1.weight", "bn1.running_mean"):
        assert network.state_dict()[name].equal(drawn.state_dict()[name])
    assert (
        len({planned(*words, f"model.init_mask={mask}", f"sparsity.control={c}").hash for c in ("none", control)}) == 2
    )


def test_weights_of_a_run_train_under_a_mask_of_ones_own(launch, finished, tmp_path):
    words = [*TINY, f"model.init_from={finished}", "model.init_mask=own", "sparsity=erk", "sparsity.control=signs"]
    status, printed = launch(*words, f"paths.root={tmp_path}/second")
    assert status == 0, printed
    (record,) = (tmp_path / "second").rglob("run.json")
    assert read(record.parent)["source_mask_sha256"] != read(finished)["mask_sha256"]
    drawn = planned("model.width=0.25", "sparsity=erk").source
    assert read(record.parent)["layers"][3]["drawn"] == int(drawn.draw()[drawn.layers[3].name].sum())


def test_transplants_need_weights(refusal):
    assert refusal("sparsity.control=signs").startswith(
        "sparsity.control=signs: must be none, unless there is a network"
    )


OTHERS = [("vgg16", 0.99), ("resnet18", 0.8), ("mlp", 0.95)]


@pytest.mark.parametrize(
    "model, level", [("resnet20", 0.9), *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)]
)
def test_a_narrow_network_has_as_many_weights_as_a_sparse_one(model, level):
    words = [f"model={model}", "sparsity=narrow", f"sparsity.level={level}", "dataset=cifar10"]
    plan = planned(*words)
    asked = round((1 - level) * sum(layer.size for layer in planned(f"model={model}", "dataset=cifar10").layers))
    size = sum(layer.size for layer in plan.layers)
    assert size == pytest.approx(asked, rel=0.05) and plan.expected == 1.0 and plan.nominal == pytest.approx(1 - level)
    width = plan.settings.model.width
    assert 0 < width < 1 and make_plan(plan.settings).hash == plan.hash
    for other in (width - 1 / 1024, width + 1 / 1024):
        layers = planned(f"model={model}", "dataset=cifar10", "sparsity=dense", f"model.width={other}").layers
        assert abs(sum(layer.size for layer in layers) - asked) >= abs(size - asked)
    assert f"-narrow{level}-" in str(plan.folder)


def test_a_narrow_network_counts_a_budget_and_starts_from_any_width(refusal):
    plan = planned("sparsity=narrow", "sparsity.budget=27000", "model.width=2")
    assert sum(layer.size for layer in plan.layers) == pytest.approx(27_000, rel=0.05)
    assert plan.settings.model.narrowed_from == 2 and plan.settings.model.width < 1
    assert "nothing to rewire" in refusal("sparsity=narrow", "method=rigl")
