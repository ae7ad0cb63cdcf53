"""Networks of the user's own as `model._target_`: they run, or one line says what is missing."""

import copy

import own_networks
import pytest
import torch
from conftest import TINY, read

import ersparse
from ersparse.errors import UserError
from ersparse.models.signature import SignatureError, keywords

DATA = {"num_classes": 10, "channels": 1, "width": 1.0, "image_size": 16}
TAKEN = {  # of what a run knows, what each is given
    "OnlyClasses": {"num_classes": 10},
    "NClasses": {"n_classes": 10, "in_channels": 1},
    "NumLabels": {"num_labels": 10, "in_chans": 1},
    "Keywords": {"num_classes": 10},
    "factory": {"num_labels": 10, "in_chans": 1},  # what the class that it returns takes
    "by_position": {"outputs": 10, "channels": 1, "width": 1.0},
    "partly": {"num_classes": 10, "channels": 1},
    "Sized": {"num_classes": 10, "channels": 1, "img_size": 16},
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(own_networks.__file__.rpartition("/")[0])


def own(name, *words):
    return [f"model._target_=own_networks.{name}", "model.name=own", "method=draw", "dry_run=true", *words]


@pytest.mark.parametrize("name", TAKEN)
def test_a_network_is_given_what_its_signature_names(launch, name):
    assert keywords(getattr(own_networks, name), DATA, {}) == TAKEN[name]
    status, printed = launch(*own(name))
    assert status == 0 and "head.weight" in printed, printed


@pytest.mark.parametrize(
    "words", ["Plain model.args.hidden=5", "Keywords model.args={hidden:5}", "partly +model.args.hidden=5"]
)
def test_arguments_of_ones_own(launch, words):
    status, printed = launch(*own(*words.split()))
    assert status == 0 and " 50 " in printed, printed  # weights of the last layer


def test_arguments_enter_the_hash_and_can_be_swept(launch, tmp_path):
    status, printed = launch(*own("Plain", "-m", "model.args.hidden=5,6", "seed,model.args.hidden=[0,7],[1,8]"))
    assert status == 0 and "2 new" in printed, printed
    words = [word for word in own("Plain") if word != "dry_run=true"]
    for hidden in ([], ["model.args.hidden=5"], ["model.args.hidden=6"]):
        assert launch(*words, *hidden)[0] == 0
    assert len(list(tmp_path.rglob("run.json"))) == 3


REFUSED = {
    "NeedsMore model.args.depth=1": "needs a value of hidden; give it by model.args={hidden: ...}",
    "Plain model.args.depth=2": "takes no depth, which is given as model.args.depth=2",
    "Plain model.width=0.5": "has no argument width, a factor of its hidden widths; must have model.width=1, not 0.5",
    "NumLabels model.width=2": "has no argument width, a factor of its hidden widths; must have model.width=1, not 2.0",
    "NoClasses": "takes no number of classes; must have an argument num_classes, n_classes, num_labels or **kwargs",
    "Raises": "raises KeyError: 'hidden\\nis missing' (own_networks.py:",
    "already": "must be a class or function that makes networks, not a network",
    "no_network": "must return a torch.nn.Module, not list",
    "Strict": "cannot take images of 1x16x16 (dataset.channels, dataset.image_size): raises AssertionError: image",
    "Keywords dataset=cifar10": "cannot take images of 3x32x32 (dataset.channels, dataset.image_size): raises Runtime",
    "Plain model.args.num_classes=7": "returns [1, 7] in evaluation mode for images of 1x16x16",
    "PerPixel": "returns [1, 10, 1] in evaluation mode",
    "Pair": "returns tuple in training mode",
    "Double": "raises RuntimeError: Input type (float) and bias type (double) should be the same",
    "Complex": "raises RuntimeError: mat1 and mat2 must have the same dtype, but got Float and Complex",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_run_is_refused_in_one_line(launch, tmp_path, words):
    name, *more = words.split()
    status, printed = launch(*own(name, *more))
    assert status == 2 and printed.count("\n") == 1 and not list(tmp_path.iterdir()), printed
    assert printed.startswith(f"model._target_=own_networks.{name}: ") and REFUSED[words] in printed


COMPUTED = "head.weight is computed from other tensors, must be a parameter; take weight_norm"
CHANGED = {
    "merged": "head.weight is transformed by the forward pass of MergedLoRA",
    "prune": COMPUTED,
    "weight_norm": COMPUTED,
    "spectral_norm": COMPUTED,
    "orthogonal": COMPUTED,
}


@pytest.mark.parametrize("change", CHANGED)
def test_layers_that_compute_their_weight_are_refused_by_runs_and_sparsify(launch, tmp_path, change):
    status, printed = launch(*own("Changed", f"model.args.change={change}"))
    assert status == 2 and printed.count("\n") == 1 and not list(tmp_path.iterdir()), printed
    assert printed.startswith(f"model=own: {CHANGED[change]}")
    network = own_networks.Changed(10, change)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(UserError, match=f"^module=Changed: {CHANGED[change]}"):
        ersparse.sparsify(network, flow="none")
    after = network.state_dict()
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)


@pytest.mark.parametrize(
    "words, layers",
    [
        ("Adapted", ["conv", "head.base", "head.down", "head.up"]),
        ("Changed model.args.change=removed", ["conv", "head"]),
        ("Changed model.args.change=bias", ["conv", "head"]),
        ("Changed model.args.change=weight_norm sparsity.exclude=[head.*]", ["conv"]),
    ],
)
def test_adapters_and_what_leaves_the_weight_a_parameter_are_pruned(launch, words, layers):
    name, *more = words.split()
    status, printed = launch(*own(name, *more))
    assert status == 0, printed
    assert [line.split()[0] for line in printed.splitlines() if ".weight " in line] == [f"{n}.weight" for n in layers]


def test_a_frozen_layer_and_its_adapter_stay_masked_while_the_adapter_trains():
    """The frozen weights that are kept do not move; those of the adapter that the mask removes stay zero."""
    network = own_networks.Adapted(10)
    masks, _ = ersparse.sparsify(network, "uniform", 0.5, flow="none")
    before = network.head.base.weight.clone()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.1, momentum=0.9)
    ersparse.keep_masks(network, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.ones(2, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    assert network.head.base.weight.equal(before)
    assert all(network.get_parameter(name).detach()[~mask].eq(0).all() for name, mask in masks.items())


UNDER_NAMES = {  # of options
    "model._target_=own_networks.Plain": "model.name=resnet20: is the name of ersparse.models.resnet20",
    "dataset._target_=own_networks.images": "dataset.name=digits: is the name of ersparse.data.digits.load",
    "sparsity._target_=ersparse.sparse.density.erk": "sparsity.name=balanced: is the name of ersparse.sparse.density.",
    "method._target_=ersparse.methods.draw.Draw": "method.name=rigl: is the name of ersparse.methods.rewiring.Rewire",
}


@pytest.mark.parametrize("target", UNDER_NAMES)
def test_code_of_ones_own_needs_a_name_of_its_own(refusal, target):
    line = refusal("method=rigl", target)
    assert line.startswith(UNDER_NAMES[target]) and f"; must be another one with {target}, since runs are told" in line


def test_two_networks_of_one_name_do_not_pass_for_one_another(launch, tmp_path):
    """Neither a finished run of the other one, nor in a sweep; `fresh=true` replaces the run."""
    draw = ["method=draw", "model.name=own", "sparsity=erk"]
    assert launch("model._target_=own_networks.Plain", *draw)[0] == 0
    for more in ([], ["-m", "seed=0,1"], ["dry_run=true"]):
        status, printed = launch("model._target_=own_networks.OnlyClasses", *draw, *more)
        assert status == 2 and printed.count("\n") == 1, printed
        assert "is a run of model._target_=own_networks.Plain; must be another name with model._target_=own" in printed
    status, printed = launch("-m", *draw, "seed=7", "model._target_=own_networks.Plain,own_networks.OnlyClasses")
    assert status == 2 and "each needs a model.name of its own, both would be" in printed, printed
    assert launch("model._target_=own_networks.Plain", *draw)[1].startswith("already done")
    assert launch("model._target_=own_networks.OnlyClasses", *draw, "fresh=true")[0] == 0
    (record,) = tmp_path.rglob("run.json")
    assert read(record.parent)["config"]["model"]["_target_"] == "own_networks.OnlyClasses"


def test_pruners_score_each_of_two_networks_of_one_name(launch, tmp_path):
    for number, target in enumerate(("Plain", "partly")):
        words = ["method=draw", f"model._target_=own_networks.{target}", "model.name=own", "sparsity=synflow"]
        status, printed = launch(*words, "sparsity.level=0.5", f"paths.root={tmp_path}/{number}")
        assert status == 0, printed
    shapes = [read(next((tmp_path / root).rglob("run.json")).parent)["layers"][0]["shape"] for root in "01"]
    assert shapes == [[6, 1, 3, 3], [4, 1, 3, 3]] and len(list((tmp_path / "cache" / "densities").glob("*.json"))) == 2


def test_an_argument_is_not_given_twice():
    with pytest.raises(SignatureError, match="needs a value of depth"):
        keywords(own_networks.NeedsMore, DATA, {"hidden": 3})
    assert keywords(own_networks.Plain, DATA, {"channels": 2}) == {"channels": 2, "num_classes": 10}


def test_unusual_modules_train_and_are_loaded_again(launch, only_run):
    words = [word for word in TINY if "width" not in word] + [
        "sparsity.flow=none",
        "sparsity=erk",
        "sparsity.level=0.5",
    ]
    status, printed = launch("model._target_=own_networks.Unusual", "model.name=unusual", *words)
    assert status == 0, printed
    record, network = read(only_run()), ersparse.load(only_run(), trust=["own_networks"])
    by_name = {layer["name"]: layer for layer in record["layers"]}
    assert by_name["first.weight"]["positions"] == 2 and "second.weight" not in by_name
    assert network.second.weight is network.first.weight and network.used_mask.dtype == torch.bool
    for name in ("conv", "first", "frozen", "head"):
        layer = getattr(network, name)
        assert (
            not layer.weight[~layer.weight_mask].any()
            and layer.weight_mask.sum() == by_name[f"{name}.weight"]["nonzero"]
        )
    again = copy.deepcopy(network)
    status, printed = launch("model._target_=own_networks.Unusual", "model.name=unusual", *words, "seed=1",
                             f"model.init_from={only_run()}")  # fmt: skip
    assert status == 0 and torch.equal(again.used_mask, network.used_mask), printed
