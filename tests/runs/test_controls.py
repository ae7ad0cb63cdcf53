"""Controls of initial weights and of width: what is transplanted, what stays, and how wide a narrow network is."""

import pytest
import torch
from conftest import TINY, planned, read
from safetensors.torch import load_file, save_file
from torch import nn

from ersparse.errors import UserError
from ersparse.runs.network import architecture, build_network, spec_of
from ersparse.runs.permuted import permuted_source
from ersparse.runs.planner import make_plan
from ersparse.sparse.channel_axes import channel_axes
from ersparse.sparse.channel_graph import GraphError
from ersparse.sparse.initialization import transplant
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import digest
from ersparse.sparse.weight_matching import permuted


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


def test_a_mask_is_matched_to_a_permuted_copy_of_its_network(finished, tmp_path, refusal, launch):
    """The other network is a permuted copy, so the permuted mask is recovered exactly; training starts as drawn."""
    state = load_file(finished / "network.safetensors")
    ticket = ["sparsity=file", f"sparsity.file={finished}", "sparsity.keep_mask=true", "model.width=0.25"]
    plain = planned(*ticket)
    sizes = {layer.name: layer.size for layer in plain.layers}
    axes = channel_axes(plain.graph, sizes)
    order = {axis: torch.randperm(size) for axis, size in axes.sizes.items()}
    save_file(permuted(state, axes, order), tmp_path / "other.safetensors")
    words = [*ticket, "sparsity.control=permute", f"model.init_from={tmp_path}/other.safetensors"]
    assert refusal(*words).startswith("sparsity.control=permute: must be none, unless there is a mask with its weights")
    words.append("model.init_mask=own")
    plan = planned(*words)
    wanted = permuted({name: state[f"{name}_mask"] for name in sizes}, axes, order)
    found = plan.source.draw()
    assert all(found[name].equal(wanted[name]) for name in sizes) and not found.keys() ^ wanted.keys()
    assert any(not found[name].equal(state[f"{name}_mask"]) for name in sizes)
    drawn, first = (build_network(p.settings, p.init_from).state_dict() for p in (planned("model.width=0.25"), plan))
    assert all(drawn[name].equal(first[name]) for name in drawn)
    assert len({plan.hash, plain.hash, planned(*ticket, "sparsity.control=permute").hash}) == 3
    status, printed = launch(*words, "method=draw", f"paths.root={tmp_path}/second")
    assert status == 0, printed
    (record,) = (tmp_path / "second").rglob("run.json")
    assert read(record.parent)["mask_sha256"] == digest(wanted)


def test_networks_without_such_permutations_are_refused(refusal, monkeypatch, finished):
    built = architecture(spec_of(planned().settings))
    ticket = ["sparsity=file", f"sparsity.file={finished}", "sparsity.keep_mask=true", "sparsity.control=permute"]
    assert refusal(*ticket[:2], ticket[3]).startswith("sparsity.control=permute: must be none, unless there is a mask")
    for graph, module, message in (
        (built.graph, nn.Sequential(nn.GroupNorm(2, 4)), "0 normalises 2 groups of channels, which cannot be permuted"),
        (GraphError("conv: aten.fft is not supported"), built.module, "conv: aten.fft is not supported"),
    ):
        with pytest.raises(UserError, match=f"sparsity.control=permute: {message}"):
            permuted_source(
                planned(*ticket[:3], "model.width=0.25").settings,
                None,
                built._replace(graph=graph, module=module),
                None,
            )
