"""Rewiring in whole runs: counts at every update, the schedule, the gradient, and resuming."""

import copy
import csv
import json
import math

import pytest
import pytorch_lightning as pl
import torch
from conftest import KILLED, TINY, killed_and_undisturbed, outcome, read, rows
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ersparse import cli
from ersparse.config.rewiring_rules import RewiringRules
from ersparse.lightning.callbacks.masks import FixedMask
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.models import resnet20
from ersparse.sparse import rewiring
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import attach, enforce, masks_of

RIGL = ["method=rigl", "sparsity=erk", "method.delta_t=5", "method.t_end=1"]
RULES = RewiringRules(
    delta_t=3, drop_fraction=0.5, final_fraction=0.0, decay="constant", t_end=1.0, grow="gradient", regrow=True,
    scope="layer", skip_step=False, grown_value="zero", grown_state="zero", keep_flow=False, final_sparsity=None,
    schedule="cubic", prune_until=1.0,
)  # fmt: skip


def updates(folder):
    """Return step -> {layer: row} from rewiring.csv; step 0 is the source."""
    found = {}
    for row in csv.DictReader((folder / "rewiring.csv").read_text().splitlines()):
        found.setdefault(int(row["step"]), {})[row["layer"]] = row
    return found


def constant_counts(folder):
    """Assert that every layer preserves its number of weights, at every update and at the end."""
    at = updates(folder)
    state = load_file(folder / "network.safetensors")
    assert len(at) > 2
    for step, layers in at.items():
        for name, row in layers.items():
            assert row["nonzero"] == at[0][name]["nonzero"] and row["removed"] == row["grown"], (step, name)
    for name, row in at[0].items():
        assert int(state[f"{name}_mask"].sum()) == int(row["nonzero"])
        assert state[name][~state[f"{name}_mask"]].eq(0).all()
    assert read(folder)["mask_sha256"] != read(folder)["source_mask_sha256"]
    return at


@pytest.mark.parametrize(
    "words",
    [[], ["method=set"], ["method.scope=global", "method.regrow=false"], ["optimizer.name=adam", "optimizer.lr=0.001"],
     ["method.keep_flow=true", "method.skip_step=true"], ["method.grown_value=random", "method.grown_state=keep"]],
)  # fmt: skip
@pytest.mark.slow
def test_every_layer_preserves_its_number_of_weights(launch, only_run, words):
    status, printed = launch(*TINY, "trainer.max_epochs=3", *RIGL, *words)
    assert status == 0, printed
    at = constant_counts(only_run())
    assert list(at) == [0, 5, 10, 15]
    if "method.keep_flow=true" in words:
        assert all(row["no_input"] == row["no_output"] == "0" for layers in at.values() for row in layers.values())
    last = rows(only_run())[-1]
    assert float(last["rewire/updates"]) == len(at) - 1
    assert float(last["rewire/weights"]) == sum(int(r["grown"]) for layers in at.values() for r in layers.values())
    assert read(only_run())["metrics"]["rewire/explored"] >= 1 - read(only_run())["sparsity"]["realised"]


UNIFORM = ["sparsity=uniform", "sparsity.level=0.5", "sparsity.exclude=[conv1.*]"]
MORE = ["srigl", "mest", "cht", "dsr", "sparse_momentum"]


@pytest.mark.parametrize(
    "method", [name if name in ("srigl", "dsr") else pytest.param(name, marks=pytest.mark.slow) for name in MORE]
)
def test_other_rules_preserve_the_total_to_the_weight(launch, only_run, method):
    """DSR and sparse momentum move weights between layers; SRigL leaves all channels the same number, or none."""
    words = ["method.delta_t=2", *(["sparsity.sampling=fan_in"] if method == "srigl" else [])]
    status, printed = launch(*TINY, "sparsity=erk", f"method={method}", *words)
    assert status == 0, printed
    at, state = updates(only_run()), load_file(only_run() / "network.safetensors")
    assert list(at) == [0, 2, 4]
    totals = [sum(int(row["nonzero"]) for row in layers.values()) for layers in at.values()]
    assert len(set(totals)) == 1 and totals[0] == sum(int(state[f"{name}_mask"].sum()) for name in at[0])
    moved = {name for name, row in at[4].items() if row["nonzero"] != at[0][name]["nonzero"]}
    assert bool(moved) == (method in ("dsr", "sparse_momentum"))
    assert read(only_run())["mask_sha256"] != read(only_run())["source_mask_sha256"]
    for name in at[0] if method == "srigl" else ():
        sizes = state[f"{name}_mask"].flatten(1).sum(1)
        assert sizes[sizes > 0].max() - sizes[sizes > 0].min() <= 1
        assert name != "fc.weight" or sizes.all()


@pytest.mark.parametrize("pattern, sparsity", [("2:4", "uniform"), pytest.param("2x2", "erk", marks=pytest.mark.slow)])
def test_rewiring_keeps_patterns(launch, only_run, pattern, sparsity):
    words = [f"sparsity={sparsity}", "sparsity.level=0.5", f"sparsity.pattern={pattern}", "sparsity.exclude=[conv1.*]"]
    extra = ["method.redistribute=gradient", "method.drop=mest"] if sparsity == "erk" else []
    status, printed = launch(*TINY, "method=rigl", "method.delta_t=2", *words, *extra)
    assert status == 0, printed
    state, layers = load_file(only_run() / "network.safetensors"), read(only_run())["layers"]
    assert read(only_run())["mask_sha256"] != read(only_run())["source_mask_sha256"]
    masks = {layer["name"]: state[f"{layer['name']}_mask"] for layer in layers}
    assert sum(int(mask.sum()) for mask in masks.values()) == sum(layer["drawn"] for layer in layers)
    for name, mask in masks.items():
        outputs, inputs = mask.shape[:2]
        if pattern == "2:4":
            assert mask.reshape(outputs, inputs // 4, 4, -1).sum(2).eq(2).all(), name
        else:
            blocks = mask.reshape(outputs // 2, 2, inputs // 2, 2, -1).sum((1, 3))
            assert blocks.ne(1).all() and blocks.ne(2).all() and blocks.ne(3).all(), name


def test_a_cyclic_density_is_exact_at_every_update(launch, only_run):
    """Eighteen steps, two cycles until step 12: the total follows the cosine."""
    words = ["method=east", "sparsity=erk", "sparsity.level=0.5", "method.final_sparsity=0.9", "method.cycles=2"]
    status, printed = launch(*TINY, "trainer.max_epochs=3", *words, "method.delta_t=2", "method.prune_until=0.667")
    assert status == 0, printed
    at, size = updates(only_run()), sum(layer["size"] for layer in read(only_run())["layers"])
    totals = {step: sum(int(row["nonzero"]) for row in layers.values()) for step, layers in at.items()}
    start = totals[0] / size
    for step in range(2, 14, 2):
        part = step / 12
        assert totals[step] == round((0.1 + (start - 0.1) * (1 + math.cos(3 * math.pi * part)) / 2) * size), step
    assert totals[8] > 2 * totals[4] and totals[12] == round(0.1 * size)
    assert read(only_run())["sparsity"]["realised"] == pytest.approx(0.9, abs=1 / size)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg16", "vgg19", "resnet18", "resnet50", "resnet110"])
def test_rewiring_runs_on_every_model(launch, only_run, model):
    status, printed = launch(*TINY, *RIGL, f"model={model}", "sparsity.level=0.9", "method.delta_t=2")
    assert status == 0, printed
    constant_counts(only_run())


def cubic(folder, final):
    """Assert the exact counts of the schedule from the realised density on; return the steps that pruned."""
    at = updates(folder)
    size = sum(layer["size"] for layer in read(folder)["layers"])
    totals = {step: sum(int(row["nonzero"]) for row in layers.values()) for step, layers in at.items()}
    start = totals[0] / size
    end = max(step for step in at if step <= 0.6875 * 18)
    for step, total in totals.items():
        part = min(1.0, step / end)
        assert total == round((1 - final + (start - (1 - final)) * (1 - part) ** 3) * size), step
    assert 1 - totals[max(totals)] / size == pytest.approx(final, abs=1 / size)
    return totals


@pytest.mark.parametrize("source", ["sparsity=erk", "sparsity=dense"])
def test_density_follows_the_pruning_schedule(launch, only_run, source):
    words = ["method=granet", source, "sparsity.level=0.5", "method.delta_t=2", "method.final_sparsity=0.95"]
    status, printed = launch(*TINY, "trainer.max_epochs=3", *words)
    assert status == 0, printed
    totals = cubic(only_run(), 0.95)
    assert len(set(totals.values())) > 4
    assert read(only_run())["sparsity"]["realised"] == pytest.approx(0.95, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg16", "vgg19", "resnet18", "resnet50", "resnet110"])
def test_density_follows_the_pruning_schedule_on_every_model(launch, only_run, model):
    words = [f"model={model}", "method=granet", "sparsity=erk", "sparsity.level=0.5", "method.delta_t=3"]
    status, printed = launch(*TINY, "trainer.max_epochs=3", *words, "method.final_sparsity=0.95")
    assert status == 0, printed
    cubic(only_run(), 0.95)


def test_growing_weights_at_zero_preserves_the_network_output():
    """With grown values of zero and no regrowth, the output equals that after the removals alone."""
    torch.manual_seed(0)
    network = resnet20(10, channels=1, width=0.5).eval()
    attach(network, {layer.name: torch.rand(layer.shape) < 0.3 for layer in prunable_layers(network)})
    enforce(network)
    x, changes = torch.randn(4, 1, 16, 16), {}
    for name, mask in masks_of(network).items():
        weight = network.get_parameter(name)
        count = rewiring.drop_count(int(mask.sum()), mask.numel(), 0.3, False)
        changes[name] = rewiring.update(mask, rewiring.magnitude(weight), torch.rand(mask.shape), count, False)
    dropped = {name: network.get_parameter(name).detach() * ~change.removed for name, change in changes.items()}
    expected = torch.func.functional_call(network, dropped, (x,))
    for name, change in changes.items():
        rewiring.apply(change, masks_of(network)[name], network.get_parameter(name), {})
    assert all(change.grown.any() for change in changes.values())
    assert network(x).equal(expected)


SGD = lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)
ADAM = lambda p: torch.optim.Adam(p, 0.1)


@pytest.mark.parametrize("optimizer_of, memory", [(SGD, ["momentum_buffer"]), (ADAM, ["exp_avg", "exp_avg_sq"])])
@pytest.mark.parametrize(
    "regrow, active, value, forgotten",
    [
        # of the active 0.5, 0.2, -0.2, 0 the last two go (of a tie the later); 2 has the largest gradient and comes
        # back as it was, 5 the largest of the rest
        (True, [1, 1, 1, 0, 0, 1, 0, 0], [0.5, 0.2, -0.2, 0, 0, 0, 0, 0], [3, 5]),
        # 2 may not come back: 5, and of 4 and 7, which tie, the first
        (False, [1, 1, 0, 0, 1, 1, 0, 0], [0.5, 0.2, 0, 0, 0, 0, 0, 0], [2, 3, 4, 5]),
    ],
)
def test_an_update_of_two_layers_matches_hand_computed_values(optimizer_of, memory, regrow, active, value, forgotten):
    """Half of the first layer is dropped, with ties and an active weight of zero; the second layer is dense."""
    network = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    first, second = network[0].weight, network[1].weight
    attach(network, {"0.weight": torch.tensor([[True] * 4, [False] * 4]), "1.weight": torch.ones(2, 2).bool()})
    optimizer = optimizer_of(network.parameters())
    first.grad, second.grad = torch.ones(2, 4), torch.ones(2, 2)
    optimizer.step()  # every weight has a memory now
    with torch.no_grad():
        first.copy_(torch.tensor([[0.5, 0.2, -0.2, 0], [0, 0, 0, 0]]))
        second.copy_(torch.tensor([[0.1, 0.3], [-0.2, 0]]))
    first.grad, second.grad = torch.tensor([[0.1, 0.9, -0.9, 0.3], [0.3, -0.4, 0, 0.3]]), torch.ones(2, 2)
    untouched = second.detach().clone()
    state = {
        weight: {key: value.clone() for key, value in optimizer.state[weight].items()} for weight in (first, second)
    }
    rewiring = Rewiring(RULES.model_copy(update={"regrow": regrow}), prunable_layers(network), seed=0)
    rewiring.rewiring_end = 10
    rewiring._update(3, network, optimizer.state)
    masks = masks_of(network)
    assert masks["0.weight"].reshape(-1).tolist() == [bool(there) for there in active]
    assert first.reshape(-1).tolist() == pytest.approx(value)
    assert masks["1.weight"].all() and second.equal(untouched)
    for key in memory:
        expected = state[first][key].reshape(-1).clone()
        expected[forgotten] = 0
        assert optimizer.state[first][key].reshape(-1).equal(expected) and expected.count_nonzero()
        assert optimizer.state[second][key].equal(state[second][key])


class Toy(pl.LightningModule):
    """Two linear layers; the gradients of each step are stored."""

    def __init__(self, optimizer_of=lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)):
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5))
        self.optimizer_of, self.before = optimizer_of, {}
        attach(self.network, {layer.name: torch.rand(layer.shape) < 0.4 for layer in prunable_layers(self.network)})

    def training_step(self, batch, index):
        return F.mse_loss(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.optimizer_of(self.parameters())


def fitted(rules, batch=4, accumulate=1, steps=7, toy=None, clip=None):
    toy = toy or Toy()
    random = torch.Generator().manual_seed(2)
    data = TensorDataset(torch.randn(64, 6, generator=random), torch.randn(64, 5, generator=random))
    rewiring, seen = Rewiring(rules, prunable_layers(toy.network), seed=0), []
    rewiring.listeners.append(lambda step, network, changes: seen.append(step))
    trainer = pl.Trainer(
        max_steps=steps, accumulate_grad_batches=accumulate, callbacks=[FixedMask(), rewiring], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        gradient_clip_val=clip,
    )  # fmt: skip
    trainer.fit(toy, DataLoader(data, batch_size=batch))
    return toy, seen


def test_accumulated_batches_count_as_one_step():
    """Two accumulated batches of four are rewired like one of eight: at the same steps, by the same gradient."""
    whole, at = fitted(RULES, batch=8)
    halves, also_at = fitted(RULES, batch=4, accumulate=2)
    assert at == also_at == [3, 6]
    for name, mask in masks_of(whole.network).items():
        assert mask.equal(masks_of(halves.network)[name]), name


class Clipped(Toy):
    """A network whose gradients are compared with dense ones, at the moment that they are clipped."""

    def training_step(self, batch, index):
        network, weights = copy.deepcopy(self.network), [self.network[0].weight, self.network[2].weight]
        dense = torch.autograd.grad(F.mse_loss(network(batch[0]), batch[1]), [network[0].weight, network[2].weight])
        self.masks = [mask.clone() for mask in masks_of(self.network).values()]
        self.dense, self.weights = dense, weights
        return super().training_step(batch, index)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        for weight, dense, mask in zip(self.weights, self.dense, self.masks, strict=True):
            assert weight.grad.allclose(dense * mask) and dense[~mask].ne(0).any()
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_batch_end(self, *_):
        for weight, dense, mask in zip(self.weights, self.dense, self.masks, strict=True):
            now = (self.network[0] if weight is self.network[0].weight else self.network[2]).weight_mask
            if not now.equal(mask):
                kept, grown = mask & now, now & ~mask
                free = ~kept  # a weight may be dropped and grown back
                assert dense[grown].abs().min() >= dense[free & ~now].abs().max()
                self.updated = getattr(self, "updated", 0) + int(grown.any())


def test_clipping_sees_kept_weights_while_growth_sees_dense_gradients():
    """Also in the steps of updates."""
    toy, at = fitted(RULES, toy=Clipped(), clip=1e-2)
    assert at == [3, 6] and toy.updated == 4


@pytest.mark.parametrize("skip", [True, False])
def test_a_skipped_optimizer_step_changes_no_weight(skip):
    """Of two steps the first is an update; biases, which are not rewired, then have made one step, or two."""
    start = Toy().network[0].bias.detach()
    toy, at = fitted(
        RULES.model_copy(update={"skip_step": skip, "delta_t": 1}), steps=2
    )  # the second is the end, no update any more
    plain, never = fitted(RULES.model_copy(update={"delta_t": 99}), steps=2)
    assert at == [1] and never == []
    way, both = toy.network[0].bias.detach() - start, plain.network[0].bias.detach() - start
    assert way.norm() > 0 and (way.norm() < 0.75 * both.norm()) == skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["method=rigl"], ["method=sparse_momentum"], ["method=srigl", "sparsity.sampling=fan_in", "method.grow=ch3"]],
)
def test_a_run_killed_between_updates_resumes_bit_for_bit(process, tmp_path, words):
    """`delta_t` does not divide an epoch; rewiring.csv is identical as well."""
    words = [*KILLED, *words, "sparsity=erk", "method.delta_t=7", "method.t_end=1"]
    (_, killed), (_, undisturbed) = killed_and_undisturbed(process, tmp_path, words, "epoch00003")
    assert outcome(killed) == outcome(undisturbed)
    assert (killed / "rewiring.csv").read_text() == (undisturbed / "rewiring.csv").read_text()


@pytest.mark.slow
def test_delta_t_follows_the_scale(launch, tmp_path):
    """A tenth of the epochs gives a tenth of the steps between updates."""
    status, printed = launch(*TINY, "method=rigl", "trainer.max_epochs=20", "scale=short", "method.delta_t=50",
                             "dataset.batch_size=128")  # fmt: skip
    assert status == 0, printed
    (folder,) = (path.parent for path in tmp_path.rglob("run.json"))
    assert list(updates(folder)) == [0, *range(5, math.ceil(0.75 * 2 * 12), 5)]


def test_delta_t_longer_than_the_run_logs_a_warning(launch, only_run):
    status, printed = launch(*TINY, "method=rigl", "method.delta_t=1000")
    assert status == 0 and "nothing will be rewired" in printed
    assert read(only_run())["mask_sha256"] == read(only_run())["source_mask_sha256"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["method=rigl", "sparsity=dense"], "sparsity=dense: leaves method=rigl nothing to rewire"),
        (["method=set", "sparsity=dense"], "sparsity=dense: leaves method=set nothing to rewire"),
        (["method=rigl", "method.drop_fraction=1"], "method.drop_fraction=1: must lie in (0, 1)"),
        (["method=set", "method.drop_fraction=0"], "method.drop_fraction=0: must lie in (0, 1)"),
        (["method=granet", "method.final_sparsity=0.5"], "method.final_sparsity=0.5: must be at least the source's"),
        (["method=rigl", "method.delta_t=0"], "method.delta_t=0: must lie in [1, inf)"),
        (["method=rigl", "method.keep_flow=true", "sparsity.flow=none"], "method.keep_flow=true: needs a source"),
        (["method=granet", "method.keep_flow=true"], "method.keep_flow=true: must be false with"),
        (["method=rigl", "method.grow=gradients"], "method.grow=gradients: must be one of gradient, random, momentum"),
        (["method=rigl", "method.grow=no.where"], "_target_=no.where: cannot be imported"),
        (["method=rigl", "method.drop=math.pow"], "method.drop=math.pow: its parameter x must be one of weight"),
        (["method=rigl", "method.grow=momentum"], "method.grow=momentum: needs method.grown_state=keep"),
        (["method=rigl", "method.ablate=0.3"], "method.ablate=0.3: needs method.fan_in=true"),
        (["method=east", "method.t_end=0.5"], "method.t_end=0.5: must be at least method.prune_until=0.75"),
        (["method=rigl", "method.schedule=cyclic"], "method.schedule=cyclic: needs method.final_sparsity"),
        (["method=srigl"], "sparsity.sampling=bernoulli: must be fan_in with method.fan_in=true"),
        (["method=srigl", "method.regrow=false"], "method.regrow=false: must be true with method.fan_in=true"),
        (
            ["method=granet", *UNIFORM, "sparsity.pattern=2:4"],
            "method.final_sparsity=0.99: must be null with sparsity.",
        ),
        (["method=rigl", *UNIFORM, "sparsity.pattern=2:4", "method.keep_flow=true"], "method.keep_flow=true: must be"),
        (["sparsity.pattern=4:2"], "sparsity.pattern=4:2: must be N:M with N < M, RxC, or null"),
        (
            ["sparsity.pattern=2:4", *UNIFORM[:2]],
            "sparsity.pattern=2:4: conv1.weight has 1 inputs, no multiple of 4; "
            "sparsity.exclude=[conv1.weight] leaves such layers dense",
        ),
        (["sparsity.pattern=1:4", *UNIFORM], "is to have density 0.5; must be uniform at sparsity.level=0.75"),
        (["sparsity.pattern=2:4", "sparsity=snip"], "sparsity.pattern=2:4: needs the same density in all layers"),
        (["sparsity.pattern=2x2", "sparsity=snip", "sparsity.keep_mask=true"], "sparsity.pattern=2x2: must be null"),
        (["sparsity.pattern=2:4", *UNIFORM, "sparsity.flow=add"], "sparsity.pattern=2:4: needs sparsity.flow=move"),
        (["method=dsr", "method.regrow=false"], "method.redistribute=remaining: needs method.regrow=true"),
        (["method=dsr", "method.keep_flow=true"], "method.redistribute=remaining: must be none with"),
        (["method=sparse_momentum", "optimizer.momentum=0"], "momentum: needs optimizer.momentum above 0"),
    ],
)
def test_invalid_settings_are_refused(launch, tmp_path, words, message):
    status, printed = launch(*words)
    assert status == 2 and message in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())


def test_rewiring_metrics_match_hand_computed_values(launch, only_run):
    """Degrees and overlap after the only update follow from the final masks and the number of removed weights."""
    launch(*TINY, "trainer.max_epochs=2", *RIGL, "method.t_end=0.5")
    at = updates(only_run())
    assert list(at) == [0, 5]
    last = at[5]
    state = load_file(only_run() / "network.safetensors")
    for name, row in last.items():
        mask = state[f"{name}_mask"]
        assert int(row["nonzero"]) == int(mask.sum())
        fed = mask.flatten(2).any(2) if mask.dim() > 2 else mask
        assert (int(row["in_min"]), int(row["in_max"])) == (int(fed.sum(1).min()), int(fed.sum(1).max()))
        assert int(row["no_input"]) == int((fed.sum(1) == 0).sum())
        before = int(at[0][name]["nonzero"])
        assert float(row["overlap"]) == pytest.approx(1 - int(row["removed"]) / before, abs=1e-6)
    assert json.loads((only_run() / "run.json").read_text())["metrics"]["rewire/silent"] >= 0


@pytest.mark.slow
def test_rewiring_figure_is_drawn(launch, only_run, monkeypatch, capsys):
    launch(*TINY, "trainer.max_epochs=2", *RIGL)
    monkeypatch.setattr("sys.argv", ["ersparse", "rewiring", str(only_run())])
    assert cli.main() == 0 and (only_run() / "rewiring.png").stat().st_size > 10_000
    monkeypatch.setattr("sys.argv", ["ersparse", "rewiring", str(only_run().parent)])
    assert cli.main() == 2 and "has no rewiring.csv" in capsys.readouterr().err
