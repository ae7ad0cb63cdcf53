"""Edge-popup: the search module, whole runs, and their tickets."""

import copy

import pytest
import torch
from conftest import KILLED, in_this_process, killed_and_undisturbed, outcome, read, rows
from safetensors.torch import load_file
from torch import nn

import ersparse
from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.lightning.callbacks import annealing
from ersparse.lightning.edge_popup import EdgePopupClassifier
from ersparse.methods.edge_popup import EdgePopup
from ersparse.models import resnet20
from ersparse.sparse import edge_popup
from ersparse.sparse.density import uniform
from ersparse.sparse.initialization import draw_weights
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import attach, masks_of
from ersparse.sparse.source import ERSource
from ersparse.sparse.topk import topk_mask

SEARCH = [
    "method=edge_popup", "sparsity=uniform", "sparsity.level=0.5", "method.final_sparsity=0.9", "method.levels=3",
    "method.epochs_per_level=2", "model.width=0.25", "dataset.batch_size=128", "optimizer.lr=0.05",
    "method.min_keep=1",
]  # fmt: skip
SGD = OptimizerSettings(
    name="sgd", lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=False, milestones=[0.5], gamma=0.1
)
SETTINGS = {
    "_target_": "ersparse.methods.edge_popup.EdgePopup", "name": "edge_popup", "final_sparsity": 0.9, "levels": 3,
    "epochs_per_level": 2, "schedule": "geometric", "lr_restart": True, "scores": "carry",
    "weight_init": "kaiming_normal", "scale_weights": False, "score_init": "kaiming_uniform", "affine": False,
    "signed": False, "scope": "layer", "min_keep": 0, "multiply_by": "ticket",
}  # fmt: skip


def search(density=0.5, **changes):
    network = resnet20(10, channels=1)
    layers = prunable_layers(network)
    source = ERSource(layers, uniform(layers, density), density, seed=0)
    module = EdgePopupClassifier(network, 10, SGD, 2, ["test"], EdgePopup(**(SETTINGS | changes)), seed=0)
    if density < 1:
        attach(network, source.repair(source.draw())[0])
    return module, layers


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("signed", [False, True])
def test_forward_pass_equals_that_of_the_masked_network(scope, signed):
    """Outputs equal, bit for bit, those of a network whose weights are multiplied by the ticket."""
    module, layers = search(scope=scope, signed=signed)
    module.set_density(0.1)
    x = torch.randn(4, 1, 16, 16)
    module.eval()
    found, tickets = module(x), module.masks()
    assert all(ticket.dtype == torch.bool for ticket in tickets.values())
    plain = resnet20(10, channels=1).eval()
    plain.load_state_dict({k: v for k, v in module.network.state_dict().items() if not k.endswith("_mask")})
    for (weight, _), layer in zip(module._source(), layers, strict=True):  # laid out alike: that decides the kernel
        product = plain.get_parameter(layer.name).detach() * tickets[layer.name]
        plain.get_parameter(layer.name).data = torch.empty_like(weight * tickets[layer.name]).copy_(product)
    assert found.equal(plain(x.contiguous(memory_format=torch.channels_last)))
    present = masks_of(module.network)
    for layer in layers:
        assert not (tickets[layer.name] & ~present[layer.name]).any()
        if scope == "layer":
            expected = min(round(0.1 * layer.size), int(present[layer.name].sum()))
            assert int(tickets[layer.name].sum()) == expected
    total = sum(int(ticket.sum()) for ticket in tickets.values())
    assert total == sum(min(round(0.1 * layer.size), int(present[layer.name].sum())) for layer in layers)


def test_scores_outside_the_er_network_have_no_effect():
    module, _ = search()
    module.set_density(0.2)
    x = torch.randn(2, 1, 16, 16)
    module.eval()
    before = module(x)
    with torch.no_grad():
        for scores, mask in zip(module.scores, masks_of(module.network).values(), strict=True):
            scores[~mask] = 1e6
    assert module(x).equal(before)


def test_the_ticket_is_selected_anew_after_a_step():
    """After an optimizer step, the ticket follows the new scores."""
    module, _ = search()
    module.set_density(0.1)
    optimizer = torch.optim.SGD(module.trainable_parameters(), 5.0, fused=True)
    first = module.masks()
    module(torch.randn(8, 1, 16, 16)).square().sum().backward()
    optimizer.step()
    second = module.masks()
    assert any(not first[name].equal(second[name]) for name in first)
    for name, scores, count, allowed in zip(
        module.names, module.scores, module.counts, masks_of(module.network).values(), strict=True
    ):
        assert second[name].equal(
            topk_mask(edge_popup.ranking(scores, edge_popup.exclusion_bias(allowed), False), count)[0]
        )


def test_only_scores_train_unless_affine():
    module, layers = search()
    assert {id(p) for p in module.trainable_parameters()} == {id(p) for p in module.scores}
    affine, _ = search(affine=True)
    norms = [m for m in affine.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(list(affine.trainable_parameters())) == len(layers) + 2 * len(norms)


class RMSNorm(nn.Module):
    """A normalisation of one's own, as many networks have it."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.scale * x


NORMS = [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.BatchNorm1d(4), RMSNorm(4)]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_affine_trains_every_kind_of_normalisation(norm):
    network = nn.Sequential(nn.Linear(4, 4), copy.deepcopy(norm), nn.Linear(4, 4))
    module = EdgePopupClassifier(network, 4, SGD, 2, ["test"], EdgePopup(**(SETTINGS | {"affine": True})), seed=0)
    trained = {id(parameter) for parameter in [*module.scores, *network[1].parameters()]}
    assert {id(parameter) for parameter in module.trainable_parameters()} == trained
    assert len(list(network[1].parameters())) > 0 and not network[0].bias.requires_grad


def test_every_layer_keeps_min_keep_weights():
    module, layers = search(scope="global", min_keep=3)
    with torch.no_grad():
        module.scores[5].mul_(1e-6)
    module.set_density(0.02)
    tickets = module.masks()
    assert int(tickets[layers[5].name].sum()) == 3
    assert all(int(ticket.sum()) >= 3 for ticket in tickets.values())
    assert sum(int(ticket.sum()) for ticket in tickets.values()) == sum(module.counts)


@pytest.mark.parametrize("how", ["kaiming_normal", "signed_constant"])
def test_weights_have_variance_two_over_fan_in(how):
    network = resnet20(10, channels=1)
    draw_weights(network, [0.25] * len(prunable_layers(network)), how, seed=1)
    weight = network.get_parameter("stages.2.1.conv1.weight").detach()
    assert weight.std().item() == pytest.approx((2 / (64 * 9 * 0.25)) ** 0.5, rel=0.03)
    assert (weight.abs().unique().numel() == 1) == (how == "signed_constant")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Return the folder of a search, and (epoch, kept weights, present weights) by layer at the end of each epoch."""
    levels = []
    original = annealing.SparsityAnnealing.on_validation_epoch_end

    def watch(self, trainer, module):
        kept = {name: int(ticket.sum()) for name, ticket in module.masks().items()}
        present = {name: int(mask.sum()) for name, mask in masks_of(module.network).items()}
        levels.append((trainer.current_epoch, kept, present))
        original(self, trainer, module)

    root = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annealing.SparsityAnnealing, "on_validation_epoch_end", watch)
        status, printed = in_this_process(root, *SEARCH, "trainer.precision=32-true")
    assert status == 0, printed
    return next(root.rglob("run.json")).parent, levels


def test_a_search_records_its_ticket(searched):
    """Checks densities at every level, unchanged weights, a ticket within the source, and the metrics after loading."""
    folder, levels = searched
    record, state = read(folder), load_file(folder / "network.safetensors")
    sizes = {layer["name"]: layer["size"] for layer in record["layers"]}
    assert [epoch for epoch, _, _ in levels] == list(range(6))
    for epoch, kept, present in levels:
        density = 0.5 * (0.1 / 0.5) ** ((epoch // 2 + 1) / 3)
        assert kept == {name: min(max(1, round(density * sizes[name])), present[name]) for name in sizes}
    sparsities = [float(row["ticket/sparsity"]) for row in rows(folder)]
    assert sparsities == sorted(sparsities) and sparsities[-1] == pytest.approx(
        record["sparsity"]["realised"], abs=1e-6
    )

    drawn = resnet20(10, channels=1, width=0.25)
    draw_weights(drawn, [1.0] * len(sizes), "kaiming_normal", seed=0)
    for name in sizes:
        assert state[name].numpy().tobytes() == drawn.get_parameter(name).detach().numpy().tobytes()
    layers = prunable_layers(drawn)
    source = ERSource(layers, uniform(layers, 0.5), 0.5, seed=0)
    for name, mask in source.repair(source.draw())[0].items():
        assert not (state[name + "_mask"] & ~mask).any()
    assert record["mask_sha256"] != record["source_mask_sha256"]


def test_a_reloaded_ticket_has_the_reported_accuracy(launch, only_run, searched):
    found, _ = searched
    launch("method=evaluate", "method.recalibrate=false", f"model.init_from={found}", "trainer.precision=32-true",
           "model.width=0.25")  # fmt: skip
    again = read(only_run())
    assert again["metrics"]["test/acc"] == read(found)["metrics"]["test/acc"]
    assert again["metrics"]["test/loss"] == pytest.approx(read(found)["metrics"]["test/loss"], rel=1e-5)
    assert again["mask_sha256"] == read(found)["mask_sha256"]
    network = ersparse.load(found)
    assert all(network.get_parameter(name)[~mask].eq(0).all() for name, mask in masks_of(network).items())


@pytest.mark.slow
def test_multiplying_by_scores_prunes_nothing(launch, tmp_path):
    """As in the released code, the result does not depend on the final sparsity, and its masks are the source's."""
    exact = ["model.width=0.25", "trainer.precision=32-true"]
    short = ["method.levels=2", "method.epochs_per_level=1"]
    for target in ("0.7", "0.9"):
        words = [*SEARCH, *short, *exact, "method.multiply_by=scores", f"method.final_sparsity={target}"]
        status, printed = launch(*words, f"paths.root={tmp_path}/{target}")
        assert status == 0, printed
    folders = [next((tmp_path / target).rglob("run.json")).parent for target in ("0.7", "0.9")]
    networks = [load_file(folder / "network.safetensors") for folder in folders]
    assert all(tensor.equal(networks[1][name]) for name, tensor in networks[0].items())
    record = read(folders[1])
    assert record["sparsity"]["realised"] == pytest.approx(0.5, abs=0.02)
    assert record["mask_sha256"] == record["source_mask_sha256"]
    words = ["method=evaluate", "method.recalibrate=false", f"model.init_from={folders[1]}"]
    status, printed = launch(*words, *exact, f"paths.root={tmp_path}/again")
    again = read(next((tmp_path / "again").rglob("run.json")).parent)
    assert status == 0 and again["metrics"]["test/acc"] == record["metrics"]["test/acc"], printed


@pytest.mark.parametrize("control", ["none", "shuffle", "reinit"])
def test_a_strong_ticket_and_its_controls_can_be_trained(launch, searched, tmp_path, control):
    folder, _ = searched
    found = read(folder)
    words = [f"model.init_from={folder}", f"sparsity.control={control}", "model.width=0.25", "dataset.batch_size=256"]
    for method in ("method=fixed trainer.max_epochs=1", "method=evaluate"):
        root = tmp_path / method[7:12]
        status, printed = launch(*words, *method.split(), f"paths.root={root}")
        assert status == 0, printed
        record = read(next(root.rglob("run.json")).parent)
        assert [layer["nonzero"] for layer in record["layers"]] == [layer["nonzero"] for layer in found["layers"]]
        assert (record["mask_sha256"] == found["mask_sha256"]) == (control != "shuffle")


def test_recalibrated_statistics_match_the_training_images(launch, only_run):
    """The statistics of the first BatchNorm equal the mean output of the first convolution over all images."""
    launch("method=evaluate", "sparsity=dense", "dataset.augment=false", "trainer.precision=32-true", "seed=2")
    state = load_file(only_run() / "network.safetensors")
    from ersparse.data import digits

    x = digits.load(None, True).resized(16).x_train.permute(0, 3, 1, 2).float() / 255
    out = nn.functional.conv2d((x - 0.3053) / 0.3191, state["conv1.weight"], padding=1)
    torch.testing.assert_close(state["bn1.running_mean"], out.mean((0, 2, 3)), rtol=0.02, atol=0.01)
    torch.testing.assert_close(state["bn1.running_var"], out.var((0, 2, 3)), rtol=0.05, atol=0.01)
    assert len(rows(only_run())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("scores", ["carry", "reset"])
def test_a_run_killed_within_a_level_resumes_bit_for_bit(process, tmp_path, scores):
    words = [word for word in KILLED if "max_epochs" not in word] + SEARCH + [
        f"method.scores={scores}", "method.epochs_per_level=3"]  # fmt: skip
    (_, killed), (_, undisturbed) = killed_and_undisturbed(process, tmp_path, words, "epoch00004")
    assert outcome(killed) == outcome(undisturbed)


@pytest.mark.parametrize(
    "words, message",
    [
        (["method.final_sparsity=0.4"], "method.final_sparsity=0.4: must be at least the source's sparsity 0.5"),
        (["method.levels=0"], "method.levels=0: must lie in [1, inf)"),
        (["trainer.max_epochs=7"], "trainer.max_epochs=7: must not be set with method=edge_popup"),
        (
            ["method.final_sparsity=0.999", "method.min_keep=0"],
            "layer conv1.weight with its 36 weights would",
        ),
        (["method.final_sparsity=1"], "method.final_sparsity=1: must lie in (0, 1)"),
        (["model.init=layer"], "model.init=layer: must be default with method=edge_popup"),
        (["method.schedule=cosine"], "method.schedule=cosine: must be one of geometric, linear, code"),
    ],
)
def test_invalid_settings_are_refused(launch, tmp_path, words, message):
    status, printed = launch(*SEARCH, *words)
    assert status == 2 and message in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())


def test_dense_sources_are_allowed(launch, only_run):
    status, printed = launch(*SEARCH, "sparsity=dense", "method.levels=1", "scale=smoke")
    assert status == 0, printed
    assert read(only_run())["source_mask_sha256"] is None and read(only_run())["mask_sha256"] is not None
