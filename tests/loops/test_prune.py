"""Pruning in a loop of one's own, pruners by name, and the summary of a network."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune
from torch.utils.data import DataLoader, TensorDataset

import ersparse
from ersparse.errors import UserError
from ersparse.sparse import scores
from ersparse.sparse.mask import masks_of

X = torch.randn(40, 2, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 4
LOADER = DataLoader(TensorDataset(X, Y), batch_size=8)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))


def attention():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16)


def recurrent():
    torch.manual_seed(0)
    return nn.ModuleDict({"embedding": nn.Embedding(9, 8), "lstm": nn.LSTM(8, 8), "out": nn.Linear(8, 9)})


def total(network):
    return sum(int(mask.sum()) for mask in masks_of(network).values())


@pytest.mark.parametrize("build", [convolutional, attention, recurrent, lambda: nn.DataParallel(convolutional())])
@pytest.mark.parametrize("by", ["magnitude", "random"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_levels_are_exact_and_nested(build, by, scope):
    network = build()
    before, size = {}, ersparse.summary(network).size
    for level in (0.3, 0.3, 0.75, 0.99):
        masks = ersparse.prune(network, level, by, scope=scope, seed=3)
        if scope == "global":
            assert total(network) == round((1 - level) * size)
        else:
            assert all(int(mask.sum()) == round((1 - level) * mask.numel()) for mask in masks.values())
        for name, mask in masks.items():
            assert not (mask & ~before.get(name, mask)).any()
            assert ersparse.summary(network).layers[list(masks).index(name)].kept == int(mask.sum())
        before = {name: mask.clone() for name, mask in masks.items()}


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_masks_equal_those_of_pytorch(scope):
    """`torch.nn.utils.prune` counts what it removes of what is left."""
    network = convolutional()
    theirs = copy.deepcopy(network)
    parts = [(theirs[0], "weight"), (theirs[3], "weight")]
    for level in (0.5, 0.75):
        ersparse.prune(network, level, scope=scope)
        if scope == "global":
            torch_prune.global_unstructured(parts, torch_prune.L1Unstructured, amount=0.5)
        else:
            for module, name in parts:
                torch_prune.l1_unstructured(module, name, amount=0.5)
    for name, mask in masks_of(network).items():
        assert mask.equal(theirs.get_submodule(name.partition(".")[0]).weight_mask.bool())


@pytest.mark.parametrize(
    "by, expected",
    [
        ("snip", lambda network: scores.snip(network, [(X, Y)])),
        ("grasp", lambda network: scores.grasp(network, [(X, Y)])),
        ("synflow", lambda network: scores.synflow(network, (2, 6, 6))),
        (lambda network: scores.magnitude(network), scores.magnitude),
    ],
)
@pytest.mark.parametrize("examples", [(X, Y), LOADER])
def test_scores_with_examples(by, expected, examples):
    """GraSP takes the images of each class in turn, a few rounding errors away."""
    network = convolutional()
    expected = scores.largest(expected(network), round(0.1 * ersparse.summary(network).size))
    masks = ersparse.prune(network, 0.9, by, examples=examples)
    assert sum(int((masks[name] ^ expected[name]).sum()) for name in masks) <= (4 if by == "grasp" else 0)


def test_removed_weights_stay_removed_between_levels():
    """Also with hooks from before, when there was no mask."""
    network = convolutional()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    ersparse.keep_masks(network, optimizer)
    for level in (0.0, 0.5, 0.9):
        masks = ersparse.prune(network, level)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(network(X), Y).backward()
            optimizer.step()
        assert all((network.get_parameter(name) != 0).equal(mask) for name, mask in masks.items())


@pytest.mark.parametrize(
    "level, options, message",
    [
        (1.0, {}, "level=1.0: must lie in [0, 1)"),
        (0.2, {}, "level=0.2: must be at least the network's sparsity 0.5"),
        (0.9, {"by": "size"}, "by=size: must be one of magnitude, random, snip, grasp, synflow, or a function"),
        (0.9, {"scope": "local"}, "scope=local: must be one of global, layer"),
        (0.9, {"by": "snip"}, "examples=None: by=snip needs a batch"),
        (0.9, {"by": "snip", "examples": X}, "examples=Tensor: must be a batch (inputs, labels) or a loader"),
        (0.9, {"by": "snip", "examples": [X]}, "examples: must have batches (inputs, labels) of two tensors"),
        (0.9, {"by": lambda network: {}}, "by=<lambda>: must return scores in the shape of each weight"),
        (0.9, {"by": lambda n: {k: w * torch.nan for k, w in scores.magnitude(n).items()}}, "score is not finite"),
    ],
)
def test_bad_arguments_are_one_line_and_change_nothing(level, options, message):
    network = convolutional()
    ersparse.prune(network, 0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError) as error:
        ersparse.prune(network, level, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "density, options",
    [("snip", {"examples": LOADER, "images": 40}), ("grasp", {"examples": (X, Y)}), ("synflow", {"examples": LOADER}),
     ("synflow", {"shape": (2, 6, 6), "rounds": 3}), ("magnitude", {})],
)  # fmt: skip
def test_sparsify_takes_the_densities_of_a_pruner(density, options):
    network = convolutional()
    pruned = copy.deepcopy(network)
    score = options | {"examples": (X, Y)}
    _, record = ersparse.sparsify(network, density, 0.9, flow="none", sampling="exact", **options)
    assert record["sparsity"]["expected"] == pytest.approx(0.9, abs=1e-3)
    if density in ("snip", "magnitude"):
        expected = ersparse.prune(pruned, 0.9, density, examples=score["examples"])
        assert [row["nonzero"] for row in record["layers"]] == [int(mask.sum()) for mask in expected.values()]
        assert record["layers"][0]["density"] != record["layers"][1]["density"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"density": "snip"}, "examples=None: snip needs a batch (inputs, labels) or a loader of batches"),
        ({"density": "synflow"}, "or shape=(C, H, W)"),
        ({"density": "snip", "examples": LOADER, "floor": 1}, "floor=1: snip has no such option"),
    ],
)
def test_pruners_of_sparsify_refuse_bad_arguments(options, message):
    network = convolutional()
    with pytest.raises(UserError) as error:
        ersparse.sparsify(network, **options)
    assert message in str(error.value) and not masks_of(network)


def test_sparsify_draws_again_if_asked_to():
    network, other = convolutional(), convolutional()
    first = {name: mask.clone() for name, mask in ersparse.sparsify(network, "erk", 0.7, seed=1).masks.items()}
    keys, weight = list(network.state_dict()), network[3].weight.detach().clone()
    masks, record = ersparse.sparsify(network, "erk", 0.6, seed=2, redraw=True)
    expected, theirs = ersparse.sparsify(other, "erk", 0.6, seed=2)
    assert record == theirs and all(mask.equal(expected[name]) for name, mask in masks.items())
    assert list(network.state_dict()) == keys
    assert network[3].weight.equal(weight * masks["3.weight"]), "what was removed before is zero"
    assert not masks["3.weight"].equal(first["3.weight"])
    with pytest.raises(UserError, match="prune prunes it further, redraw=true draws new masks, and remove_masks"):
        ersparse.sparsify(network)


def test_a_summary_is_data_and_a_table():
    network = recurrent()
    dense = ersparse.summary(network)
    assert dense.density == dense.density_of_all == 1.0 and [row.kept for row in dense.layers] == [256, 256, 72]
    ersparse.prune(network, 0.5, scope="layer")
    with torch.no_grad():
        masks_of(network)["out.weight"][2] = False
    found = ersparse.summary(nn.DataParallel(network))
    kept = 128 + 128 + int(masks_of(network)["out.weight"].sum())
    assert found.kept == kept and found.density == kept / 584 and found.unpruned == {"embedding.weight": 72}
    assert found.density_of_all == (kept + 72) / 656 and found.layers[2].dead_outputs == 1
    lines = str(found).splitlines()
    assert lines[0].split() == ["layer", "shape", "kept", "of", "density", "dead", "outputs", "dead", "inputs"]
    dead = [str(found.layers[0].dead_outputs), str(found.layers[0].dead_inputs)]
    assert lines[1].split() == ["lstm.weight_ih_l0", "32×8", "128", "256", "0.5000", *dead]
    assert lines[4].split() == ["prunable", f"{kept}", "584", f"{kept / 584:.4f}"]
    assert lines[-1].split() == ["all", "matrices", f"{kept + 72}", "656", f"{(kept + 72) / 656:.4f}"]
