"""Which layers are pruned, and densities of single layers: in the library, and in runs."""

import json

import pytest
import torch
from conftest import TINY, read
from torch import nn

import ersparse
from ersparse.errors import UserError
from ersparse.sparse.density import DensityError, balanced, erk, pyramidal, uniform
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import masks_of
from ersparse.sparse.selection import spread

LAYERS = [Layer("a", (8, 3, 3, 3)), Layer("b", (16, 8, 3, 3)), Layer("c", (32, 16, 3, 3)), Layer("d", (10, 32))]


@pytest.mark.parametrize("rule", [uniform, erk, balanced, pyramidal])
@pytest.mark.parametrize("own", [{"a": 1.0}, {"d": 1.0}, {"a": 1.0, "d": 1.0}, {"b": 0.0, "d": 0.25}])
def test_the_rule_spreads_what_is_left_of_the_budget(rule, own):
    densities = dict(zip("abcd", spread(rule, LAYERS, 0.2, own), strict=True))
    assert {name: densities[name] for name in own} == own
    kept = sum(densities[layer.name] * layer.size for layer in LAYERS)
    assert kept == pytest.approx(0.2 * sum(layer.size for layer in LAYERS))
    rest = [layer for layer in LAYERS if layer.name not in own]
    left = kept - sum(own.get(layer.name, 0) * layer.size for layer in LAYERS)
    assert [densities[layer.name] for layer in rest] == pytest.approx(
        rule(rest, left / sum(layer.size for layer in rest))
    )


def test_uniform_by_hand():
    """Layers of 10 x 10, 10 x 20 and 20 x 5 weights: of 100 to keep, 50 are in the last, so the others keep 1/6."""
    layers = [Layer("a", (10, 10)), Layer("b", (20, 10)), Layer("c", (5, 20))]
    assert spread(uniform, layers, 0.25, {"c": 0.5}) == pytest.approx([1 / 6, 1 / 6, 0.5])
    with pytest.raises(DensityError, match=r"^layers with a density of their own keep 100 weights of 40$"):
        spread(uniform, layers, 0.1, {"c": 1.0})
    with pytest.raises(DensityError, match=r"^layers without a density of their own have 300 weights, and 340 are"):
        spread(uniform, layers, 0.85, {"c": 0.0})
    with pytest.raises(DensityError, match="have 0 weights"):
        spread(uniform, layers, 0.5, {"a": 0.4, "b": 0.4, "c": 0.4})


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(30, 12), nn.LSTM(12, 10)
        self.norm, self.middle, self.head = nn.LayerNorm(10), nn.Linear(10, 12), nn.Linear(12, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.middle(self.norm(self.lstm(self.embedding(x))[0])))


NOT_PRUNED = pytest.mark.filterwarnings("ignore:not pruned")


@NOT_PRUNED
@pytest.mark.parametrize(
    "include, exclude, names",
    [
        (None, ["lstm.*"], ["middle.weight", "head.weight"]),
        (["head.*", "embedding.*"], [], ["embedding.weight", "head.weight"]),
        (["*"], ["*_hh_l?", "mid[cd]le*"], ["embedding.weight", "lstm.weight_ih_l0", "head.weight"]),
        ("head.weight", (), ["head.weight"]),
    ],
)
def test_patterns_select_weights_that_alone_are_pruned_and_count(include, exclude, names):
    network = Tagger()
    masks, record = ersparse.sparsify(
        network, "erk", 0.8, flow="none", sampling="exact", include=include, exclude=exclude
    )
    assert list(masks) == names == [row["name"] for row in record["layers"]] == list(masks_of(network))
    assert record["sparsity"]["realised"] == pytest.approx(0.8, abs=0.01)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    ersparse.keep_masks(network, optimizer)
    for _ in range(2):
        network(torch.arange(30)[:, None]).square().sum().backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        assert bool((parameter == 0).any()) == (name in names)
        assert name not in names or parameter.detach()[~masks[name]].eq(0).all()
    ersparse.remove_masks(network)
    assert not masks_of(network)


@NOT_PRUNED
def test_a_tied_weight_is_matched_by_each_of_its_names_and_left_out_layers_may_be_parametrised():
    network = Tagger()
    network.head.weight = network.embedding.weight
    nn.utils.parametrizations.weight_norm(network.middle)
    masks, _ = ersparse.sparsify(network, "uniform", 0.5, flow="none", include=["embedding.*"])
    assert list(masks) == ["head.weight"]
    with pytest.raises(UserError, match=r"^module=Tagger: middle\.weight is computed"):
        ersparse.sparsify(ersparse.remove_masks(network) or network, "uniform", 0.5, flow="none")


@NOT_PRUNED
@pytest.mark.parametrize("density", ["uniform", "erk", "balanced", "pyramidal"])
def test_ends_and_single_layers_have_densities_of_their_own(density):
    words = {"flow": "none", "sampling": "exact", "include": ["*.weight*"], "first_dense": True, "last_dense": True}
    _, record = ersparse.sparsify(Tagger(), density, 0.45, layers={"lstm*": 0.1, "lstm.weight_i*": 0.25}, **words)
    found = {row["name"]: row["density"] for row in record["layers"]}
    assert found["embedding.weight"] == found["head.weight"] == 1.0
    assert found["lstm.weight_ih_l0"] == 0.25 and found["lstm.weight_hh_l0"] == 0.1
    assert record["sparsity"]["expected"] == pytest.approx(0.45)


@NOT_PRUNED
@pytest.mark.parametrize(
    "options, message",
    [
        ({"exclude": ["had.*"]}, "exclude=had.*: matches no prunable weight, such as lstm.weight_ih_l0"),
        ({"include": ["head.bias"]}, "include=head.bias: matches no prunable weight, such as embedding.weight"),
        ({"exclude": ["*"]}, "exclude=[*]: leaves no layer to prune"),
        ({"layers": {"tail": 0.5}}, "layers={tail: 0.5}: matches no layer that is pruned"),
        ({"layers": {"head.*": 1.5}}, "layers={head.*: 1.5}: must lie in [0, 1]"),
        (
            {"layers": {"head.*": 0.5}, "last_dense": True},
            "last_dense=true: contradicts layers",
        ),
        (
            {"last_dense": True, "level": 0.9},
            "density=balanced: layers with a density of their own keep 360 ",
        ),
    ],
)
def test_impossible_selections_are_refused_in_one_line(options, message):
    network = Tagger()
    with pytest.raises(UserError) as error:
        ersparse.sparsify(network, flow="none", **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value) and not masks_of(network)


@NOT_PRUNED
def test_flow_is_repaired_in_the_layers_that_are_pruned():
    network = ersparse.models.resnet20(10)
    masks, record = ersparse.sparsify(network, "erk", 0.95, exclude=["conv1.*", "*classifier*"])
    assert len(masks) == len(ersparse.sparsify(ersparse.models.resnet20(10))[0]) - 2
    assert all(mask.flatten(2).any(2).any(1).all() for mask in masks.values())
    assert record["sparsity"]["realised"] <= record["sparsity"]["effective"] < 1
    assert set(record["sparsity"]["unpruned"]) == {"conv1.weight", "classifier.weight"}


SELECTED = ["sparsity.exclude=[conv1.*]", "sparsity.last_dense=true", "sparsity.layers={stages.0.0.conv?.*: 0.5}"]


def densities(folder):
    return {row["name"]: row["density"] for row in read(folder)["layers"]}


@pytest.mark.parametrize(
    "option",
    [
        "sparsity=erk",
        "sparsity=synflow sparsity.rounds=2",
        pytest.param("sparsity=imp", marks=pytest.mark.slow),
        pytest.param("sparsity=snip sparsity.images=16", marks=pytest.mark.slow),
        pytest.param("sparsity=grasp sparsity.images_per_class=1", marks=pytest.mark.slow),
        pytest.param("sparsity=uniform", marks=pytest.mark.slow),
    ],
)
def test_runs_select_layers(launch, only_run, option):
    status, printed = launch("method=draw", *option.split(), *SELECTED)
    assert status == 0, printed
    found, sparsity = densities(only_run()), read(only_run())["sparsity"]
    assert "conv1.weight" not in found and list(sparsity["unpruned"]) == ["conv1.weight"]
    assert found["classifier.weight"] == 1.0 and found["stages.0.0.conv2.weight"] == 0.5
    assert sparsity["expected"] == pytest.approx(0.9, abs=1e-4)


@pytest.mark.slow
def test_a_selection_enters_the_hash_and_its_density_file_fits(launch, tmp_path):
    assert launch("method=draw")[0] == 0
    plain = next((tmp_path / "outputs").rglob("run.json")).parent
    names = {plain.parent.name}
    for word in ("sparsity.exclude=[conv1.*]", "sparsity.first_dense=true", "sparsity.last_dense=true"):
        assert launch("method=draw", word)[0] == 0
        names |= {path.parent.parent.name for path in (tmp_path / "outputs").rglob("run.json")}
    assert len(names) == 4
    kept = tmp_path / "file.json"
    kept.write_text(json.dumps({"densities": {n: d / 2 for n, d in densities(plain).items()}}))
    file = ["sparsity=file", f"sparsity.file={kept}", "sparsity.exclude=[conv1.*]", "sparsity.layers={stages.0.*: 0.3}"]
    assert launch("method=draw", *file)[0] == 0
    (made,) = [p.parent for p in (tmp_path / "outputs").rglob("run.json") if "-file-" in p.parent.parent.name]
    assert densities(made)["stages.0.0.conv1.weight"] == 0.3
    assert densities(made)["classifier.weight"] == densities(plain)["classifier.weight"] / 2


LEVELS = "method.levels=1 method.epochs_per_level=1 method.final_sparsity=0.8"
METHODS = {  # and the fraction of the layers that are not left out which is kept at the end
    "method=rigl method.delta_t=1 trainer.max_epochs=1": 0.1,
    "method=set method.delta_t=1 method.scope=global trainer.max_epochs=1": 0.1,
    "method=granet method.delta_t=1 trainer.max_epochs=1 sparsity=dense method.final_sparsity=0.8": 0.2,
    "method=rigl method.delta_t=1 trainer.max_epochs=1 sparsity=snip sparsity.images=16 sparsity.keep_mask=true": 0.1,
    f"method=imp method.final_epochs=1 sparsity=dense {LEVELS}": 0.2,
    f"method=edge_popup sparsity.level=0.5 method.min_keep=1 {LEVELS}": 0.2,
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_layers_that_are_left_out_stay_dense_and_the_budget_is_met_over_the_others(launch, only_run, method):
    selected = ["sparsity=erk", "sparsity.sampling=exact", "sparsity.exclude=[conv1.*,stages.0.0.*]"]
    status, printed = launch(*TINY[::2], *selected, "sparsity.last_dense=true", *method.split())
    assert status == 0, printed
    network, record = ersparse.load(only_run()), read(only_run())
    left_out = {"conv1.weight", "stages.0.0.conv1.weight", "stages.0.0.conv2.weight"}
    assert set(record["sparsity"]["unpruned"]) == left_out and not left_out & masks_of(network).keys()
    assert all((network.get_parameter(name) != 0).all() for name in left_out)
    total, kept = (sum(layer[key] for layer in record["layers"]) for key in ("size", "nonzero"))
    assert kept == pytest.approx(METHODS[method] * total, abs=len(record["layers"]) / 2)
    assert kept == sum(int(mask.sum()) for mask in masks_of(network).values())
    assert record["sparsity"]["realised"] == pytest.approx(1 - kept / total)
    last = record["layers"][-1]
    assert (last["nonzero"] == last["size"]) == (METHODS[method] == 0.1)  # others prune the last layer while they train


@pytest.mark.parametrize(
    "words, message",
    [
        ("sparsity=imp_multishot sparsity.make=true sparsity.last_dense=true", "sparsity=imp_multishot: does not take"),
        ("sparsity=snip sparsity.keep_mask=true sparsity.layers={conv1.*:0.5}", "sparsity.layers="),
        ("sparsity.include=[conv2*]", "sparsity.include=conv2*: matches no prunable weight"),
        ("sparsity.layers={conv1.*:1.5}", "sparsity.layers.conv1.*=1.5: must lie in [0, 1]"),
        ("sparsity=synflow sparsity.level=0.999 sparsity.last_dense=true", "sparsity=synflow: "),
    ],
)
def test_selections_that_do_not_apply_are_refused_in_one_line(launch, words, message):
    status, printed = launch(*words.split())
    assert status == 2 and printed.startswith(message) and printed.count("\n") == 1, printed
