"""Iterative pruning: masks of each level, rewinding, and records."""

import json
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from conftest import KILLED, in_this_process, killed_and_undisturbed, outcome, read, rows
from safetensors.torch import load_file
from torch import nn

from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.lightning.callbacks.iterative_pruning import Rewinding
from ersparse.lightning.iterative_pruning import IterativePruningClassifier
from ersparse.models import resnet20
from ersparse.sparse import scores as S
from ersparse.storage import density_file

LEVELS = ["model.width=0.25", "dataset.batch_size=256", "method.levels=3", "method.epochs_per_level=1",
          "method.final_epochs=1", "method.final_sparsity=0.8"]  # fmt: skip
TOTAL = 17060  # prunable weights of resnet20 on digits at width 0.25


def level_files(folder):
    return [density_file.read(path) for path in sorted((folder / "levels").glob("level*.json"))]


@contextmanager
def rewinds():
    """Record (network before rewinding, network after, target) of every level."""
    seen = []
    original = Rewinding.apply

    def watch(self, network, weights):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        original(self, network, weights)
        seen.append((before, {name: tensor.clone() for name, tensor in network.state_dict().items()}, weights))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rewinding, "apply", watch)
        yield seen


@pytest.fixture
def rewound():
    with rewinds() as seen:
        yield seen


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Return a function from a method to (folder of its run, rewindings)."""

    @cache
    def run(method):
        root = tmp_path_factory.mktemp(method)
        with rewinds() as seen:
            status, printed = in_this_process(root, f"method={method}", *LEVELS)
        assert status == 0, printed
        return next(root.rglob("run.json")).parent, seen

    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", ["imp", "synflow"])
def test_levels_keep_the_largest_scores_of_trained_weights(pruned, method):
    folder, rewound = pruned(method)
    record, files = read(folder), level_files(folder)
    assert sum(layer["size"] for layer in record["layers"]) == TOTAL
    masks = [file.masks() for file in files]
    kept = [sum(int(mask.sum()) for mask in level.values()) for level in masks]
    assert kept == [round(TOTAL * 0.2 ** (level / 3)) for level in (1, 2, 3)]
    before = {layer["name"]: torch.ones(layer["shape"], dtype=torch.bool) for layer in record["layers"]}
    for level, count, (trained, _, _) in zip(masks, kept, rewound, strict=True):
        network = resnet20(10, channels=1, width=0.25)
        network.load_state_dict({name: t for name, t in trained.items() if not name.endswith("_mask")})
        scores = S.magnitude(network) if method == "imp" else S.synflow(network, (1, 16, 16))
        values = torch.cat([score.masked_fill(~before[name], -1).reshape(-1) for name, score in scores.items()])
        chosen = np.argsort(-values.numpy(), kind="stable")[:count]
        found = torch.cat([level[name].reshape(-1) for name in scores]).nonzero().reshape(-1)
        assert np.array_equal(np.sort(chosen), found.numpy())
        before = level
    assert record["mask_sha256"] == files[-1].content["mask_sha256"]
    assert record["sparsity"]["realised"] == pytest.approx(0.8, abs=1e-9) and record["source_mask_sha256"]
    state = load_file(folder / "network.safetensors")
    assert all(state[name][~mask].eq(0).all() for name, mask in masks[-1].items())


def test_every_level_is_recorded(launch, only_run):
    launch("method=imp", *LEVELS, "method.epochs_per_level=2")
    table, files = rows(only_run()), level_files(only_run())
    assert [float(row["level"]) for row in table] == [1, 1, 2, 2, 3, 3, 4]
    assert len(files) == 3
    for number, file in enumerate(files):
        row, content = table[2 * number + 1], file.content
        assert content["trained"]["test/acc"] == float(row["test/acc"]) and content["trained"]["epochs"] == 2
        assert content["trained"]["sparsity"] == pytest.approx(float(row["mask/sparsity"]), abs=1e-6)
        assert content["sparsity"] == pytest.approx(1 - 0.2 ** ((number + 1) / 3), abs=1e-4)
        assert content["made"]["run"] == read(only_run())["hash"] and content["made"]["level"] == number + 1
        kept = sum(p * np.prod(content["shapes"][name]) for name, p in file.by_layer.items())
        assert kept == pytest.approx((1 - content["sparsity"]) * TOTAL)


def test_rewinding_restores_initial_weights_exactly(pruned):
    _, rewound = pruned("imp")
    network = resnet20(10, channels=1, width=0.25)
    for _, after, weights in rewound:
        for name, parameter in network.named_parameters():
            mask = after.get(f"{name}_mask", torch.ones_like(parameter, dtype=torch.bool))
            assert (after[name] * 0).eq(0).all()
            assert torch.equal(after[name], torch.where(mask, weights[name], torch.zeros(())))
    first, _, weights = rewound[0]
    assert not torch.equal(first["conv1.weight"], weights["conv1.weight"])


@pytest.mark.slow
def test_initial_weights_are_those_of_other_methods(launch, rewound, only_run, tmp_path):
    """A level is rewound to the weights of an untrained network of the same seed."""
    launch("method=imp", *LEVELS, "method.levels=1", "seed=3")
    launch("method=evaluate", "sparsity=dense", "model.width=0.25", "seed=3", f"paths.root={tmp_path}/untrained")
    (record,) = (tmp_path / "untrained").rglob("run.json")
    untrained = load_file(record.parent / "network.safetensors")
    assert all(torch.equal(untrained[name], weight) for name, weight in rewound[0][2].items())


@pytest.mark.slow
def test_rewinding_to_an_epoch_restores_its_weights(launch, rewound, monkeypatch):
    """Rewinding to epoch 1 of 2 restores the weights after it, which a run of one epoch ends with."""
    launch("method=imp", *LEVELS, "method.levels=1", "method.epochs_per_level=1", "method.rewind=epoch")
    launch("method=imp", *LEVELS, "method.levels=2", "method.epochs_per_level=2", "method.rewind=epoch")
    one, first, second = rewound
    for name, weight in first[2].items():
        assert torch.equal(weight, one[0][name]) and torch.equal(weight, second[2][name])
        assert name.endswith("_mask") or not first[0][name].equal(weight) or weight.numel() == 0


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["reset", "keep"])
def test_learning_rate_rewinding_keeps_the_weights(launch, rewound, statistics):
    launch("method=imp", *LEVELS, "method.rewind=lr", f"method.statistics={statistics}")
    for before, after, _ in rewound:
        for name in before:
            if name.endswith("_mask"):
                assert torch.equal(before[name], after[name])
            elif f"{name}_mask" in before:
                assert torch.equal(after[name], before[name] * before[f"{name}_mask"])
        same = torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])
        assert same == (statistics == "keep") and after["bn1.running_mean"].eq(0).all() == (statistics == "reset")


@pytest.mark.parametrize(
    "each, expected",
    [(False, [1] * 8 + [1, 1, 0.1, 0.01]), (True, [1, 1, 0.1, 0.01] * 3)],
)
def test_learning_rate_restarts_at_every_level(each, expected):
    settings = OptimizerSettings(
        name="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, nesterov=False, milestones=[0.5, 0.75], gamma=0.1
    )
    module = IterativePruningClassifier(nn.Linear(2, 2), 2, settings, 4, ["test"], levels=2, per_level=4, each=each)
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    schedule, found = module.schedule(optimizer), []
    for _ in range(12):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(expected)
    assert [module.level_of(epoch) for epoch in (0, 3, 4, 8, 11)] == [(1, 0), (1, 3), (2, 0), (3, 0), (3, 3)]


@pytest.mark.slow
def test_pruning_starts_from_a_sparse_source(launch, only_run):
    """Levels start at the realised density of the source, and stay within its masks."""
    launch("method=imp", *LEVELS, "sparsity=erk", "sparsity.level=0.5", "sparsity.flow=none")
    record, files = read(only_run()), level_files(only_run())
    start = sum(layer["drawn"] for layer in record["layers"])
    kept = [sum(int(m.sum()) for m in file.masks().values()) for file in files]
    assert kept == [round(start * (0.2 * TOTAL / start) ** (level / 3)) for level in (1, 2, 3)]
    assert start != TOTAL // 2 and record["sparsity"]["nominal"] == 0.5


def test_the_densities_of_any_level_define_a_source(launch, pruned, tmp_path):
    level = pruned("imp")[0] / "levels" / "level02.json"
    words = ["method=draw", "model.width=0.25", "sparsity=file", f"sparsity.file={level}"]
    for keep in ("true", "false"):
        status, printed = launch(*words, f"sparsity.keep_mask={keep}", f"paths.root={tmp_path}/{keep}")
        assert status == 0, printed
        record = read(next((tmp_path / keep).rglob("run.json")).parent)
        content = json.loads(level.read_text())
        assert {layer["name"]: layer["density"] for layer in record["layers"]} == content["densities"]
        assert (record["mask_sha256"] == content["mask_sha256"]) == (keep == "true")


@pytest.mark.slow
def test_cycles_train_one_mask_and_sculpting_prunes_it_once(launch, tmp_path):
    """Weights and statistics stay, the learning rate restarts. SCULPT's first cycles are those of cyclic training."""
    words = [*LEVELS[:4], "sparsity=erk", "sparsity.level=0.5", "schedule.warmup=0.5", "method.epochs_per_level=2"]
    found = {}
    for method, keys in (("cyclic", []), ("sculpt", ["method.final_sparsity=0.8"])):
        status, printed = launch(*words, f"method={method}", *keys, f"paths.root={tmp_path}/{method}")
        assert status == 0, printed
        folder = next((tmp_path / method).rglob("run.json")).parent
        counts = [sum(int(m.sum()) for m in file.masks().values()) for file in level_files(folder)]
        found[method] = (read(folder), counts, [row["train/loss"] for row in rows(folder)])
    cyclic, sculpt = found["cyclic"], found["sculpt"]
    drawn = sum(layer["nonzero"] for layer in cyclic[0]["layers"])
    assert cyclic[0]["mask_sha256"] == cyclic[0]["source_mask_sha256"] and cyclic[1] == [drawn] * 3
    assert sculpt[1] == [drawn, drawn, round(0.2 * TOTAL)] and cyclic[2][:6] == sculpt[2][:6]
    assert len(cyclic[2]) == 8 and cyclic[2][6:] != sculpt[2][6:]


@pytest.mark.slow
@pytest.mark.parametrize("rewind", ["init", "epoch"])
def test_a_run_killed_within_a_level_resumes_bit_for_bit(process, tmp_path, rewind):
    words = [word for word in KILLED if "max_epochs" not in word] + [
        "method=imp", "method.levels=2", "method.epochs_per_level=3", "method.final_epochs=3",
        "method.final_sparsity=0.8", f"method.rewind={rewind}"]  # fmt: skip
    (again, killed), (whole, undisturbed) = killed_and_undisturbed(process, tmp_path, words, "epoch00004")
    assert "level 1 of 2" in whole and "level 1 of 2" not in again  # a level that is there is not done again
    assert outcome(killed) == outcome(undisturbed)
    levels = [
        [(file.by_layer, file.content["mask_sha256"], file.content["trained"]) for file in level_files(folder)]
        for folder in (killed, undisturbed)
    ]
    assert levels[0] == levels[1]


@pytest.mark.slow
def test_layer_collapse_fails_the_run(launch, only_run):
    words = ["method=imp", *LEVELS, "method.levels=1", "method.final_sparsity=0.9999"]
    status, printed = launch(*words)
    assert status == 1 and "level 1: layer collapse: no path from input to output remains (cut at" in printed
    assert read(only_run())["state"] == "failed" and "sparsity.allow_collapse=true" in read(only_run())["error"]
    status, printed = launch(*words, "sparsity.allow_collapse=true")
    assert status == 0 and read(only_run())["sparsity"]["effective"] == 1.0


@pytest.mark.parametrize(
    "words, message",
    [
        (["method.levels=0"], "method.levels=0: must lie in [1, inf)"),
        (
            ["method.rewind=epoch", "method.rewind_epoch=2"],
            "method.rewind_epoch=2: must lie in [0, 1], the epochs of a level",
        ),
        (
            ["trainer.max_epochs=7"],
            "trainer.max_epochs=7: must not be set with method=imp, which has method.epochs_per",
        ),
        (
            ["sparsity=erk", "sparsity.level=0.9"],
            "method.final_sparsity=0.8: must be at least the source's sparsity 0.9",
        ),
        (["method.final_sparsity=1"], "method.final_sparsity=1: must lie in (0, 1)"),
        (["method.rewind=half"], "method.rewind=half: must be one of init, epoch, lr"),
    ],
)
def test_invalid_settings_are_refused(launch, tmp_path, words, message):
    status, printed = launch("method=imp", *LEVELS, *words)
    assert status == 2 and message in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("method, epochs", [("imp", 30), ("edge_popup", 100)])
def test_a_level_has_the_papers_epochs_unless_the_data_set_has_fewer(launch, method, epochs):
    """30 of cifar10's 160 for iterative pruning, and 100 for edge-popup; digits have 30."""
    for dataset, level in (("cifar10", epochs), ("digits", 30)):
        words = [f"method={method}", f"dataset={dataset}", "method.levels=3", "dry_run=true", "model.width=0.25"]
        extra = ["method.final_epochs=1"] if method == "imp" else []
        status, printed = launch(*words, *extra)
        assert status == 0 and f"state: new, {3 * level + len(extra)} epochs" in printed
