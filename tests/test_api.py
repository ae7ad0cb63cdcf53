"""The library functions: sparsify any module, and load finished runs."""

import copy
import warnings
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision
from conftest import TINY, read
from damage import flip_a_bit
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.data import DataLoader

import ersparse
from ersparse.errors import UserError
from ersparse.sparse.channel_graph import trace
from ersparse.sparse.degrees import zero_degrees
from ersparse.sparse.flow_repair import Counts
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.reachability import effective_density


class Small(nn.Module):
    """A user's module with grouped and depthwise convolutions, a concatenation, and `view` for flattening."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.out = nn.Linear(20 * 16, 5)

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = self.depthwise(torch.relu(self.grouped(a)))
        return self.out(nn.functional.avg_pool2d(torch.cat([a, b], 1), 2).view(x.size(0), -1))


NETWORKS = {
    # at 32 its last maps are one pixel: eight numbers to normalise over, and a loss that jumps
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(num_classes=5), 64),
    "resnet50": (lambda: torchvision.models.resnet50(num_classes=5), 32),
    "small": (Small, 8),
}


@pytest.mark.filterwarnings("ignore:nominal sparsity")  # the small network needs more weights than it gets
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("density", ["erk", "balanced", "uniform"])
def test_sparsify_meets_density_and_flow(name, density):
    network = NETWORKS[name][0]()
    masks, record = ersparse.sparsify(network, density, 0.8, sampling="exact", seed=3)
    layers = {layer.name: layer for layer in prunable_layers(network)}
    assert set(masks) == set(layers) and record["sparsity"]["expected"] == pytest.approx(0.8, abs=1e-9)
    for row in record["layers"]:
        layer, mask = layers[row["name"]], masks[row["name"]]
        assert row["drawn"] == round(row["density"] * layer.size)
        assert int(mask.sum()) == row["nonzero"] == max(row["drawn"], layer.n_out, layer.n_in)
        assert zero_degrees(mask, layer) == (0, 0)
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert record["sparsity"]["realised"] == pytest.approx(
        1 - kept / sum(layer.size for layer in layers.values()), abs=1e-12
    )
    effective = effective_density(masks, list(layers.values()), trace(network))
    assert effective == pytest.approx(1 - record["sparsity"]["effective"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "resnet50" else name for name in NETWORKS]
)
def test_removed_weights_stay_zero_in_training(name):
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # its noise is larger than what six steps gain
    masks, _ = ersparse.sparsify(network, "erk", 0.8)
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    handle = ersparse.keep_masks(network, optimizer)
    x, y = torch.randn(8, 3, side, side), torch.arange(8) % 5
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        for key, mask in masks.items():
            assert network.get_parameter(key)[~mask].eq(0).all()
    assert losses[-1] < losses[0]
    for key, mask in masks.items():
        assert (network.get_parameter(key) != before[key])[mask].any(), key
    handle.remove()
    nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()  # moves everything: without the handle this test's look would fail
    assert any(network.get_parameter(key)[~mask].ne(0).any() for key, mask in masks.items())


def test_fixed_mask_works_in_any_lightning_module():
    class Theirs(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.body = Small()

        def training_step(self, batch, index):
            return self.body(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    module = Theirs()
    masks, _ = ersparse.sparsify(module.body, "uniform", 0.7)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", enable_model_summary=False, callbacks=[ersparse.FixedMask()], **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(torch.randn(8, 3, 8, 8), 4))
    assert all(module.body.get_parameter(key)[~mask].eq(0).all() for key, mask in masks.items())


def test_masks_equal_those_of_a_run(launch, only_run):
    from ersparse.models import resnet20

    launch("method=draw", "sparsity=erk", "sparsity.level=0.95", "seed=7")
    _, record = ersparse.sparsify(resnet20(10, channels=1), "erk", 0.95, seed=7)
    assert record["mask_sha256"] == read(only_run())["mask_sha256"]
    found = read(only_run())
    for layer in found["layers"]:
        layer.pop("positions")  # of an image's size, which a module does not tell
    assert record["layers"] == found["layers"] and record["sparsity"] == found["sparsity"]


def test_densities_by_function_mapping_and_budget():
    _, record = ersparse.sparsify(Small(), {layer.name: 0.5 for layer in prunable_layers(Small())}, sampling="exact")
    assert record["sparsity"]["nominal"] == 0.5
    _, record = ersparse.sparsify(Small(), "balanced", budget=900, sampling="exact", flow="none")
    assert sum(row["nonzero"] for row in record["layers"]) == pytest.approx(900, abs=2)
    _, record = ersparse.sparsify(Small(), lambda layers, density: [density] * len(layers), 0.5)
    assert record["sparsity"]["expected"] == 0.5


WIDE = partial(nn.Linear, 4000, 4)  # every column needs an edge


@pytest.mark.parametrize(
    "build, density, level, flow",
    [
        (lambda: torchvision.models.mobilenet_v2(num_classes=5), "erk", 0.999, "move"),
        (Small, "uniform", 0.99, "add"),
        (WIDE, "uniform", 0.999, "released"),
        (WIDE, "uniform", 0.99, lambda mask, layer, density, random: (torch.ones_like(mask), Counts(0))),
        (Small, lambda layers, density: [0.9] * len(layers), 0.5, "none"),
    ],
)
def test_a_missed_budget_is_a_warning_and_an_error_if_strict(build, density, level, flow):
    network = build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match=f"^strict=true: nominal sparsity {level}, realised") as error:
        ersparse.sparsify(network, density, level, flow=flow, strict=True)
    after = network.state_dict()
    assert "\n" not in str(error.value)
    assert after.keys() == before.keys() and all(after[name].equal(tensor) for name, tensor in before.items())
    with pytest.warns(UserWarning, match=f"nominal sparsity {level}, realised") as warned:
        _, record = ersparse.sparsify(network, density, level, flow=flow)
    assert f"realised {record['sparsity']['realised']:.6g}:" in str(warned[0].message) and len(warned) == 1


@pytest.mark.parametrize("flow, sampling", [("none", "bernoulli"), ("resample", "bernoulli"), ("move", "exact")])
@pytest.mark.parametrize("seed", range(5))
def test_the_chance_of_drawing_meets_the_budget(flow, sampling, seed):
    """Warnings are errors here."""
    network = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 30))
    ersparse.sparsify(network, "erk", 0.9, flow=flow, sampling=sampling, seed=seed, strict=True)


def test_runs_report_a_missed_budget(launch, only_run):
    words = ["method=draw", "sparsity=uniform", "sparsity.level=0.999"]
    status, printed = launch(*words, "sparsity.strict=true")
    assert status == 2 and "sparsity.strict=true: nominal sparsity 0.999, realised" in printed
    with pytest.raises(ValueError):
        only_run()  # nothing was created
    status, printed = launch(*words)
    assert status == 0 and printed.count("nominal sparsity 0.999, realised") == 1
    plain = only_run()
    status, printed = launch(*words, "sparsity.strict=true")
    assert status == 2 and "sparsity.strict=true" in printed, "a finished run meets its budget no better"
    assert read(plain)["config"]["sparsity"]["strict"] is False


def test_a_shared_weight_counts_once():
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    masks, record = ersparse.sparsify(tied, "uniform", 0.5, sampling="exact")
    assert list(masks) == ["0.weight"] and record["layers"][0]["nonzero"] == 18
    assert record["sparsity"]["effective"] == pytest.approx(0.5)


def test_fixed_mask_finds_masks_in_any_submodule():
    """The masks are in a submodule of a module that has another submodule called `network`."""

    class Theirs(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def training_step(self, batch, index):
            return self.head(self.network(batch)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    module = Theirs()
    masks, _ = ersparse.sparsify(module.head, "uniform", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(
            max_epochs=2, accelerator="cpu", enable_model_summary=False, callbacks=[ersparse.FixedMask()], logger=False,
            enable_checkpointing=False, enable_progress_bar=False,
        ).fit(module, DataLoader(torch.randn(8, 6), 4))  # fmt: skip
    assert module.head.weight[~masks["weight"]].eq(0).all()


REMOVABLE = {
    "sequential": lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)),
    "grouped": Small,
    "a layer alone": lambda: nn.Linear(6, 6),
    "batch normalisation": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)),
}


@pytest.mark.parametrize("name", REMOVABLE)
@pytest.mark.parametrize("copied", [lambda network: network, copy.deepcopy])
def test_remove_masks_leaves_a_plain_network_with_its_zeros(name, copied):
    plain = REMOVABLE[name]()
    masks, _ = ersparse.sparsify(network := copy.deepcopy(plain), "uniform", 0.5)
    masks = {name: mask.clone() for name, mask in masks.items()}
    network = copied(network)
    ersparse.remove_masks(network)
    plain.load_state_dict(network.state_dict())
    assert not any(True for tensor in network.buffers() if tensor.dtype == torch.bool)
    for name, mask in masks.items():
        assert (plain.get_parameter(name) != 0).equal(mask)
    network.load_state_dict({name: torch.ones_like(tensor) for name, tensor in network.state_dict().items()})
    assert all(p.eq(1).all() for p in network.parameters()), "no hook is left"
    with pytest.raises(UserError, match="has no masks$"):
        ersparse.remove_masks(network)


def test_sparsify_again_prunes_further_or_draws_anew():
    network = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 10))
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    ersparse.sparsify(network, "uniform", 0.5, flow="none", seed=1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    ersparse.keep_masks(network, optimizer)
    for level, seed in ((0.8, 1), (0.7, 2)):
        before = network[0].weight != 0
        ersparse.remove_masks(network)
        masks, record = ersparse.sparsify(network, "uniform", level, flow="none", seed=seed)
        assert record["sparsity"]["nominal"] == pytest.approx(level)
        assert (network[0].weight != 0).equal(before & masks["0.weight"])
        if seed == 1:
            assert not (masks["0.weight"] & ~before).any(), "at a higher level, the same seed keeps a part"
        network(torch.randn(8, 30)).square().sum().backward()
        optimizer.step()
        assert network[0].weight[~masks["0.weight"]].eq(0).all(), "the hook holds the new masks"


def test_weights_train_freely_once_their_masks_are_removed():
    network = nn.Linear(6, 6)
    masks, _ = ersparse.sparsify(network, "uniform", 0.5)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    ersparse.keep_masks(network, optimizer)
    removed = ~masks["weight"].clone()
    ersparse.remove_masks(network)
    network(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()
    assert network.weight[removed].ne(0).all()


class Cumulative(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x).cumsum(1) + self.b(x)


def masked():
    network = nn.Linear(4, 4)
    ersparse.sparsify(network, "uniform", 0.5)
    return network


def identically_parametrised():
    return nn.Sequential(parametrize.register_parametrization(nn.Linear(4, 4), "weight", nn.Identity()))


def pruned():
    return prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)


@pytest.mark.parametrize("number", [np.int64, torch.tensor, np.array], ids=["numpy", "torch", "array"])
def test_numbers_of_numpy_and_pytorch_are_numbers(number):
    """They used to draw other masks, since the seed entered the generator as it is printed."""
    expected = ersparse.sparsify(Small(), budget=60, flow="none", seed=3).record["mask_sha256"]
    found = ersparse.sparsify(Small(), budget=number(60), flow="none", seed=number(3))
    assert found.record["mask_sha256"] == expected
    assert ersparse.sparsify(Small(), level=np.float32(0.5), flow="none").record["sparsity"]["nominal"] == 0.5


@pytest.mark.parametrize("module", [None, 3, nn.Linear, torch.zeros(3)])
def test_what_is_no_module_is_refused(module):
    with pytest.raises(UserError, match="^module=.*: must be a torch.nn.Module$"):
        ersparse.sparsify(module)


@pytest.mark.parametrize(
    "module, options, message",
    [
        (nn.BatchNorm2d, {"num_features": 3}, "module=BatchNorm2d: has no prunable weights"),
        (masked, {}, "module=Linear: is sparse already (weight has a mask)"),
        (pruned, {}, "module=Linear: weight is computed from other tensors"),
        (identically_parametrised, {}, "module=Sequential: 0.weight is computed from other tensors"),
        (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), {}, "weight is computed from other tensors"),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 4))), {}, "0.weight is computed from other tensors"),
        (lambda: nn.LazyLinear(3), {}, "weight has no shape yet"),
        (Small, {"level": 1.2}, "level=1.2: must lie in [0, 1)"),
        (Small, {"level": float("nan")}, "level=nan: must lie in [0, 1)"),
        (Small, {"budget": 3}, "budget=3: must lie in [4, "),
        (Small, {"density": "snap"}, "density=snap: must be one of balanced, dense, er, erk, pyramidal, uniform"),
        (Small, {"density": {"a.weight": 0.5}}, "layer grouped.weight: density missing"),
        (Small, {"level": "0.9"}, "level=0.9: must lie in [0, 1), as a number"),
        (Small, {"budget": 9.0}, "to all, as an integer"),
        (Small, {"seed": 1.5}, "seed=1.5: must be an integer"),
        (Small, {"seed": None}, "seed=None: must be an integer"),
        (Small, {"density": [0.5] * 4}, "density=[0.5, 0.5, 0.5, 0.5]: must be a name, a function, or a mapping"),
        (Small, {"flow": 3}, "flow=3: must be one of none, add, move, resample, released"),
        (Small, {"density": "dense", "level": 5.0}, "level=5.0: must lie in [0, 1)"),
        (Small, {"density": lambda layers, density: [1.7] * 4}, "layer a.weight: density 1.7, must lie in [0, 1]"),
        (Small, {"density": lambda layers, density: [0.5] * 3}, "returned 3 densities for 4 layers"),
        (Small, {"flow": "resample", "sampling": "exact"}, "sampling=exact: must be bernoulli with flow=resample"),
        (Small, {"flow": "add", "sampling": "fan_in"}, "sampling=fan_in: needs flow=move or none"),
        (Small, {"flow": "ad"}, "flow=ad: must be one of none, add, move, resample, released"),
        (Small, {"sampling": "sobol"}, "sampling=sobol: must be one of bernoulli, exact"),
        (Small, {"flor": 1}, "flor=1: density=balanced has no such option"),
        (Small, {"floor": 1e9}, "cannot be spread"),
        (Cumulative, {}, "flow=move: channels cannot be followed through cumsum; flow=none needs no channel graph"),
    ],
)
def test_invalid_modules_and_options_are_refused(module, options, message):
    network = module(**options) if module is nn.BatchNorm2d else module()
    options = {} if module is nn.BatchNorm2d else options
    items = network.state_dict().items()
    before = {key: value.clone() for key, value in items if not isinstance(value, nn.UninitializedParameter)}
    with pytest.raises(UserError) as error:
        ersparse.sparsify(network, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
    after = network.state_dict()
    assert all(after[key].equal(value) for key, value in before.items())


def test_flow_none_accepts_untraceable_modules():
    _, record = ersparse.sparsify(Cumulative(), "uniform", 0.5, flow="none")
    assert record["sparsity"]["effective"] is None and record["sparsity"]["expected"] == 0.5


def test_load_restores_network_and_images(launch, only_run):
    launch(*TINY, "sparsity=erk")
    network = ersparse.load(only_run())
    record = read(only_run())
    assert not network.training
    from ersparse.data import digits
    from ersparse.data.batches import ImageTable, InMemoryDataLoader

    data, config = digits.load(None, True).resized(16), record["config"]["dataset"]
    table = ImageTable.from_images(data.x_test, data.y_test, config["mean"], config["std"], torch.device("cpu"))
    autocast = torch.autocast("cpu", torch.bfloat16, record["config"]["trainer"]["precision"] == "bf16-mixed")
    with torch.no_grad(), autocast:
        right = sum(
            int((network(x.contiguous()).argmax(1) == y).sum())
            for x, y in InMemoryDataLoader(table, torch.arange(360), 500)
        )
    assert right / 360 == pytest.approx(record["metrics"]["test/acc"], abs=1.5 / 360)
    with pytest.raises(UserError, match="is sparse already"):
        ersparse.sparsify(network)


@pytest.mark.parametrize(
    "damage, message",
    [
        (flip_a_bit, "network.safetensors is not what the run wrote; remove it and issue `"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "network.safetensors is damaged"),
        (lambda path: path.unlink(), "has no network.safetensors"),
    ],
)
def test_a_damaged_network_file_names_the_command_that_recreates_it(launch, finished, damage, message):
    path = finished / "network.safetensors"
    whole = path.read_bytes()
    damage(path)
    with pytest.raises(UserError) as error:
        ersparse.load(finished)
    assert message in str(error.value)
    path.unlink(missing_ok=True)
    status, printed = launch(*TINY)
    assert status == 0 and "resuming after epoch 1" in printed and path.read_bytes() == whole


def test_loading_another_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="must be the folder of a finished run"):
        ersparse.load(tmp_path)
