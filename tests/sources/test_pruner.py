"""Pruner-derived densities: their values by a second implementation, and when they are computed."""

import copy
import json
import signal
import time

import numpy as np
import pytest
import torch
from conftest import read
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.nn import functional as F

from ersparse.config.groups import build
from ersparse.config.options import CONF
from ersparse.config.schema import Settings
from ersparse.data import digits
from ersparse.data.scoring_batches import ScoringExamples
from ersparse.runs.network import initial_network
from ersparse.runs.planner import make_plan
from ersparse.sources.pruner import PrunerSource
from ersparse.sparse import pruners
from ersparse.sparse import scores as S
from ersparse.sparse.mask import digest
from ersparse.sparse.source import ERSource

SMALL = ["model.width=0.25", "method=draw", "sparsity.level=0.8"]


def scored_network(plan):
    return initial_network(plan.settings, plan.init_from)


def planned(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    return make_plan(build(Settings, config))


def made(tmp_path):
    """Return the content of the only density file of this test."""
    (file,) = (tmp_path / "cache" / "densities").glob("*.json")
    return json.loads(file.read_text())


def kept_by(scores, count):
    """Return the kept fraction of each layer for the `count` largest scores, by a sort."""
    values = np.concatenate([score.reshape(-1) for score in scores.values()])
    kept = np.zeros(len(values), bool)
    kept[np.argsort(-values, kind="stable")[:count]] = True
    parts = np.split(kept, np.cumsum([score.size for score in scores.values()])[:-1])
    return {name: part.mean() for name, part in zip(scores, parts, strict=True)}


@pytest.mark.parametrize("control, sign", [("none", 1), ("invert", -1)])
def test_magnitude_masks_match_a_sort(launch, only_run, tmp_path, control, sign):
    status, printed = launch(*SMALL, "sparsity=imp", f"sparsity.control={control}", "sparsity.allow_collapse=true")
    assert status == 0, printed
    network = scored_network(planned(*SMALL))
    scores = {layer["name"]: sign * network.get_parameter(layer["name"]).detach().abs().numpy()
              for layer in read(only_run())["layers"]}  # fmt: skip
    by_hand = kept_by(scores, round(0.2 * sum(score.size for score in scores.values())))
    assert made(tmp_path)["densities"] == pytest.approx(by_hand, abs=1e-12)
    assert {layer["name"]: layer["density"] for layer in read(only_run())["layers"]} == made(tmp_path)["densities"]


def test_snip_masks_match_a_sort(launch, tmp_path):
    """The reference uses .backward() on the images of the data seed, in double precision."""
    launch(*SMALL, "sparsity=snip", "sparsity.images=50", "sparsity.score_dtype=float64", "seeds.data=5", "seed=2")
    p = planned(*SMALL, "seed=2")
    network = scored_network(p).double().train()
    arrays = digits.load(None, True).resized(16)
    ((x, y),) = ScoringExamples(arrays, p.settings.dataset, 5).some(50)
    F.cross_entropy(network(x.double()), y).backward()
    scores = {
        layer.name: (w := network.get_parameter(layer.name)).detach().mul(w.grad).abs().numpy() for layer in p.layers
    }
    assert made(tmp_path)["densities"] == pytest.approx(kept_by(scores, made(tmp_path)["made"]["weights"]), abs=1e-12)


def test_scoring_batches_are_balanced_training_images():
    arrays = digits.load(None, True)
    settings = planned("dataset.validation=0.5").settings.dataset
    examples = ScoringExamples(arrays, settings, 3)
    chosen = examples.of_each_class(30)
    labels = torch.cat([y for _, y in chosen])
    assert labels.bincount().tolist() == [30] * 10
    assert [len(y) for _, y in chosen] == [150, 150]  # as few batches of at most 256 images as there can be
    assert all(y.bincount().max() - y.bincount().min() <= 1 for _, y in chosen)
    assert [len(y) for _, y in examples.of_each_class(25)] == [250]
    held_out = torch.randperm(1437, generator=torch.Generator().manual_seed(3))[: round(0.5 * 1437)]
    assert not set(examples.order.tolist()) & set(held_out.tolist()) and len(examples.order) + len(held_out) == 1437
    (everything,) = examples.some(10**6)
    assert len(everything[1]) == len(examples.order)


SAME = ["seeds.mask=9", "method=fixed", "sparsity.sampling=exact", "sparsity.keep_mask=true", "optimizer.lr=1",
        "sparsity.control=reinit", "dataset.augment=false", "sparsity.temperature=3"]  # fmt: skip
OTHER = ["seeds.init=9", "seeds.data=9", "sparsity.level=0.7", "sparsity.images=64", "sparsity.control=invert",
         "model.width=0.5", "dataset.validation=0.1", "sparsity.score_dtype=float64"]  # fmt: skip


def test_the_density_file_depends_on_the_pruner_inputs():
    base = planned(*SMALL, "sparsity=snip").source.path
    assert {planned(*SMALL, "sparsity=snip", word).source.path for word in SAME} == {base}
    others = {planned(*SMALL, "sparsity=snip", word).source.path for word in OTHER}
    assert len(others) == len(OTHER) and base not in others
    blind = planned(*SMALL, "sparsity=synflow")
    assert planned(*SMALL, "sparsity=synflow", "seeds.data=9").source.path == blind.source.path


@pytest.mark.parametrize("table", ["table5", "table6"])
def test_snip_densities_of_tables_5_and_6_are_shipped(table, tmp_path):
    """From a fresh clone, with neither data nor cache; each layer keeps a whole number of weights, exactly as many in
    all as asked for. The masks themselves are not there.
    """
    words = [f"experiment={table}", "sparsity=snip", f"paths.cache={tmp_path}"]
    for level in (0.5, 0.8, 0.9, 0.99, 0.999):
        p = planned(*words, f"sparsity.level={level}").resolved()
        assert isinstance(p.source, ERSource)
        counts = np.array([d * layer.size for d, layer in zip(p.source.densities, p.layers, strict=True)])
        assert counts == pytest.approx(counts.round(), abs=1e-6)
        assert counts.sum() == pytest.approx(round((1 - level) * sum(layer.size for layer in p.layers)))
    assert isinstance(planned(*words, "sparsity.keep_mask=true").resolved().source, PrunerSource)


def test_the_run_hash_depends_on_pruner_options():
    words = ["sparsity=snip", "sparsity=snip sparsity.keep_mask=true", "sparsity=snip sparsity.images=1",
             "sparsity=imp", "sparsity=snip sparsity.keep_mask=true sparsity.control=shuffle",
             "sparsity=snip sparsity.control=reinit",
             "sparsity=snip sparsity.level=0.99", "sparsity=snip sparsity.flow=none"]  # fmt: skip
    hashes = {planned(*word.split()).hash for word in words}
    assert len(hashes) == len(words)
    assert planned("sparsity=snip", "sparsity.allow_collapse=true", "sparsity.rounds=7").hash in hashes


@pytest.mark.parametrize("control", ["none", "shuffle", "reinit"])
def test_keep_mask_uses_the_pruner_mask_and_its_controls(launch, only_run, tmp_path, control):
    words = ["model.width=0.25", "sparsity=imp", "sparsity.keep_mask=true", f"sparsity.control={control}"]
    status, printed = launch(*words, "method=evaluate")
    assert status == 0, printed
    record, file = read(only_run()), made(tmp_path)
    assert (record["mask_sha256"] == file["mask_sha256"]) == (control != "shuffle")
    assert {layer["name"]: layer["nonzero"] / layer["size"] for layer in record["layers"]} == file["densities"]
    assert record["sparsity"]["nominal"] == 0.9
    state, first = load_file(only_run() / "network.safetensors"), scored_network(planned(*words)).state_dict()
    same = all(
        state[layer["name"]].equal(first[layer["name"]] * state[layer["name"] + "_mask"]) for layer in record["layers"]
    )
    assert same == (control != "reinit")


def test_a_pruner_density_file_can_be_reused(launch, tmp_path):
    launch(*SMALL, "sparsity=snip")
    (file,) = (tmp_path / "cache" / "densities").glob("*.json")
    (tmp_path / "mine.json").write_text(file.read_text())
    status, printed = launch("model.width=0.25", "method=draw", "sparsity=file", f"sparsity.file={tmp_path}/mine.json")
    assert status == 0 and "sparsity 0.8" in printed
    status, printed = launch("model.width=0.25", "method=draw", "sparsity=file", f"sparsity.file={tmp_path}/mine.json",
                             "sparsity.keep_mask=true")  # fmt: skip
    assert status == 2 and "has no masks in mine.safetensors" in printed
    status, printed = launch("model.width=0.25", "method=draw", "sparsity=file", f"sparsity.file={file}",
                             "sparsity.keep_mask=true", f"paths.root={tmp_path}/kept")  # fmt: skip
    assert status == 0, printed
    record = read(next((tmp_path / "kept").rglob("run.json")).parent)
    assert record["mask_sha256"] == json.loads(file.read_text())["mask_sha256"]


def test_a_dry_run_computes_nothing(launch, tmp_path):
    status, printed = launch(*SMALL, "sparsity=grasp", "dry_run=true")
    assert status == 0 and "densities are computed first" in printed and not list(tmp_path.iterdir())
    launch(*SMALL, "sparsity=grasp")
    status, printed = launch(*SMALL, "sparsity=grasp", "dry_run=true")
    assert status == 0 and "nominal density 0.2, expected 0.2\n" in printed


@pytest.mark.slow
def test_two_processes_compute_once_and_a_kill_leaves_no_file(process, tmp_path):
    """The first process is killed while it scores; of the next two, one computes and the other uses its file."""
    words = ["method=draw", "sparsity=synflow", "sparsity.rounds=40"]
    cache = tmp_path / "cache" / "densities"
    first = process(*words)
    while not list(cache.glob("*.lock")) and first.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not list(cache.glob("*.json")) and not list(cache.glob("*.safetensors"))
    both = [process(*words, f"seeds.mask={seed}") for seed in (1, 2)]
    printed = [run.communicate(timeout=120)[0] for run in both]
    assert [run.returncode for run in both] == [0, 0], printed
    assert sum("scores resnet20" in text for text in printed) == 1, printed
    assert sum("waiting for it" in text for text in printed) <= 1
    assert made(tmp_path)["seconds"] > 0 and len(list(tmp_path.rglob("run.json"))) == 2
    assert not list(cache.glob(".*.partial"))


def test_grasp_can_score_with_a_fresh_classifier():
    """The masks then depend on convolutions and the seed, not on the network's own classifier."""
    examples = ScoringExamples(digits.load(None, True).resized(16), planned().settings.dataset, 0)
    network = scored_network(planned(*SMALL))
    other = copy.deepcopy(network)
    other.classifier.weight.data = torch.randn_like(other.classifier.weight)

    def kept(of, **options):
        return digest(pruners.grasp(of, 2000, examples, images_per_class=5, **options))

    assert kept(network) != kept(other)
    fresh = kept(network, fresh_classifier=True)
    assert fresh == kept(other, fresh_classifier=True)
    assert fresh not in (kept(network), kept(network, fresh_classifier=True, seed=1))


def test_a_density_file_records_its_provenance(launch, tmp_path):
    launch(*SMALL, "sparsity=grasp", "sparsity.images_per_class=5")
    content = made(tmp_path)
    assert content["made"]["pruner"] == "grasp" and content["made"]["settings"]["images_per_class"] == 5
    assert content["made"]["data"]["name"] == "digits" and content["made"]["data_seed"] == 0
    assert content["cut"] == [] and len(content["hash"]) == 64 and "python" in content["versions"]
    kept = sum(p * np.prod(content["shapes"][name]) for name, p in content["densities"].items())
    assert kept == pytest.approx(content["made"]["weights"])


def test_layer_collapse_names_the_cut_unless_allowed(launch, only_run):
    words = [
        "model=vgg16",
        "model.width=0.25",
        "dataset.image_size=32",
        "method=draw",
        "sparsity=imp",
        "sparsity.level=0.999",
    ]
    for _ in range(2):  # also from the file
        status, printed = launch(*words)
        assert status == 2 and printed.splitlines()[-1].startswith(
            "sparsity=imp: layer collapse: no path from input to output remains (cut at features."
        )
    status, printed = launch(*words, "sparsity.allow_collapse=true", "sparsity.keep_mask=true")
    assert status == 0 and "layer collapse" in printed
    assert read(only_run())["sparsity"]["effective"] == 1.0


def test_non_finite_scores_are_errors(launch, monkeypatch, tmp_path):
    def broken(*arguments):
        scores = {name: score.clone() for name, score in original(*arguments).items()}
        scores["stages.0.1.conv2.weight"][0] = float("inf")
        return scores

    original = S.magnitude
    monkeypatch.setattr(S, "magnitude", broken)
    status, printed = launch(*SMALL, "sparsity=imp")
    assert status == 2 and not list(tmp_path.rglob("*.json"))
    line = "sparsity=imp: layer stages.0.1.conv2.weight: a score is not finite; score in float64"
    assert printed.splitlines()[-1] == f"{line} (sparsity.score_dtype=float64)"


@pytest.mark.parametrize(
    "words, message",
    [
        ("sparsity=erk sparsity.control=invert", "sparsity.control=invert: must be none, unless there is scores: "),
        ("sparsity=snip sparsity.control=shuffle", "sparsity.control=shuffle: must be none, unless there is a mask: "),
        ("sparsity=erk sparsity.control=reinit", "sparsity.control=reinit: must be none, unless there is weights that"),
        ("sparsity=snip sparsity.images=0", "sparsity.images=0: must lie in [1, inf)"),
        ("sparsity=synflow sparsity.rounds=0", "sparsity.rounds=0: must lie in [1, inf)"),
        ("sparsity=snip sparsity.budget=3", "sparsity.budget=3: must lie in [22,"),
        ("sparsity=snip sparsity.score_dtype=half", "sparsity.score_dtype=half: must be one of float32, float64"),
    ],
)
def test_invalid_settings_are_refused(launch, tmp_path, words, message):
    status, printed = launch(*words.split())
    assert status == 2 and message in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())


def spoiled(content, change):
    first = next(iter(content["densities"]))
    if change == "above":
        content["densities"][first] = 1.5
    elif change == "nan":
        content["densities"][first] = float("nan")
    elif change == "missing":
        del content["densities"][first], content["shapes"]
    elif change == "unknown":
        content["densities"]["other.weight"] = 0.5
    elif change == "unfinished":
        content = {"layers": [], "state": "running"}
    return content


@pytest.mark.parametrize(
    "change, words, message",
    [
        ("above", "", "layer conv1.weight: density 1.5, must lie in [0, 1]"),
        ("nan", "", "layer conv1.weight: density nan, must lie in [0, 1]"),
        ("missing", "", "layer conv1.weight: density missing, must lie in [0, 1]"),
        ("unknown", "", "layer other.weight: the network has no such layer"),
        ("unfinished", "", "is running, must be the folder of a finished run"),
        ("", "model.width=0.5", "is of another architecture, its conv1.weight is [4, 1, 3, 3] where model=resnet20 has "
         "conv1.weight [8, 1, 3, 3]"),
        ("", "model=resnet110", "its stages.1.0.conv1.weight is [8, 4, 3, 3] where model=resnet110 has "
         "stages.0.3.conv1.weight"),
    ],
)  # fmt: skip
def test_invalid_density_files_are_refused(launch, tmp_path, change, words, message):
    launch(*SMALL, "sparsity=imp")
    file = tmp_path / "spoiled.json"
    file.write_text(json.dumps(spoiled(made(tmp_path), change)))
    status, printed = launch(
        "model.width=0.25", "method=draw", "sparsity=file", f"sparsity.file={file}", *words.split()
    )
    assert status == 2 and printed.startswith(f"sparsity.file={file}: ") and message in printed, printed
