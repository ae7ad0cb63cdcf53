"""The identity of a run: which settings enter its hash."""

import hashlib
import json
from typing import Annotated

import pytest
from conftest import planned

from ersparse.config.groups import SettingsGroup, identity_fields
from ersparse.config.types import NotIdentity, Since
from ersparse.runs.identity import run_hash


def test_the_default_hash_is_that_of_its_canonical_form():
    """The canonical form is written by hand."""
    description = {
        "model": {"name": "resnet20", "width": 1.0, "init": "default", "init_from": None},
        "dataset": {
            "name": "digits", "augment": True, "validation": 0.0, "num_classes": 10, "channels": 1, "image_size": 16,
            "batch_size": 64, "mean": [0.3053], "std": [0.3191], "crop_padding": 1, "padding_mode": "zero",
            "flip": False,
        },
        "sparsity": {
            "name": "balanced", "level": 0.9, "floor": 0.0, "redistribute": "exact", "sampling": "bernoulli",
            "flow": "move",
        },
        "method": {"name": "fixed"},
        "optimizer": {
            "name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "nesterov": False,
            "milestones": [0.5, 0.75], "gamma": 0.1,
        },
        "epochs": 30,
        "variant": "paper",
        "seeds": {},
    }  # fmt: skip
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"))
    assert planned().hash == hashlib.sha256(canonical.encode()).hexdigest()


GOLDEN = {  # never to change: they are the names of people's runs
    "": "e81c9efb",
    "model=vgg16 dataset=cifar10": "f1d45c6f",
    "model=vgg19 dataset=cifar100 sparsity=erk sparsity.level=0.99": "9a038d37",
    "model=resnet18 dataset=cifar10 sparsity=pyramidal sparsity.flow=add": "bf1582a3",
    "model=resnet50 dataset=cifar100 sparsity=uniform sparsity.first_dense=true": "9bea9f5b",
    "model=resnet110 sparsity=er sparsity.budget=20000": "42fffe2b",
    "sparsity=dense": "abd894d2",
    "method=draw model=vgg19 dataset=tiny_imagenet sparsity.redistribute=none": "e1ffb8e0",
    "variant=code dataset=cifar10 sparsity.flow=move": "4dca9391",
    "scale=smoke seeds.mask=3 model.width=2": "f319f204",
}


@pytest.mark.parametrize("command", GOLDEN)
def test_hashes_match_golden_values(command):
    assert planned(*command.split()).hash[:8] == GOLDEN[command]


SAME = [
    "seed=7",
    "paths.root=elsewhere",
    "dataset.root=elsewhere dataset.download=false",
    "trainer=cpu trainer.precision=32-true",
    "trainer.devices=2 trainer.num_nodes=3",
    "logger=wandb logger.project=x",
    "fresh=true dry_run=true",
    "model.sync_batchnorm=true",
    "trainer.metrics=[ece,top5] trainer.deterministic=true trainer.profile=true trainer.checkpoint_every=60",
    "sparsity.rounds=7 optimizer.ham={alpha:0,beta:0}",  # balanced does not take rounds
    "model.init_mask=run sparsity.pattern=null",
    "sparsity.exclude=[] sparsity.include=null sparsity.layers=null sparsity.last_dense=false",
    "sparsity.file=nowhere",
    "trainer.max_epochs=300 scale=short",  # a tenth of 300 is the default's 30
]
OTHER = [
    "sparsity.level=0.91",
    "sparsity.budget=27061",
    "sparsity.flow=add",
    "sparsity.sampling=fan_in",
    "sparsity=narrow",
    "sparsity=narrow sparsity.level=0.8",
    "sparsity.pattern=2x2 sparsity.exclude=[conv1.*]",
    "sparsity=erk",
    "sparsity=uniform sparsity.first_dense=true",
    "sparsity.first_dense=true",
    "sparsity.last_dense=true",
    "sparsity.exclude=[conv1.*]",
    "sparsity.layers={conv1.*:0.5}",
    "seeds.mask=0",
    "trainer.max_epochs=31",
    "method=draw",
    "optimizer.lr=0.2",
    "variant=code",
    "dataset.batch_size=32",
    "model.width=2",
    "scale=short",
    "optimizer.no_decay=[norm]",
    "optimizer.args={dampening:0.1}",
    "optimizer.ham.alpha=1",
    "optimizer.ham.beta=1",
    "optimizer.layers={bn1.*:{lr:0.2}}",
    "schedule=cosine",
    "schedule=cosine schedule.interval=epoch",
    "schedule.warmup=5",
    "loss.label_smoothing=0.1",
    "trainer.clip_norm=1",
    "trainer.accumulate=2",
    "trainer.ema=0.9",
    "trainer.swa=0",
    "dataset.validation=0.1 trainer.keep_best=true",
    "dataset.validation=0.1 trainer.early_stopping=3",
    "dataset.transforms=randaugment",
    "dataset.mixup=0.2",
]


@pytest.mark.parametrize("words", SAME)
def test_keys_outside_the_identity_do_not_change_the_hash(words):
    assert planned(*words.split()).hash == planned().hash


def test_keys_of_the_identity_change_the_hash():
    hashes = [planned(*words.split()).hash for words in ["", *OTHER]]
    assert len(set(hashes)) == len(hashes)


def test_folders_are_named_by_run_and_hash(tmp_path):
    assert planned(f"paths.root={tmp_path}", "seed=3").folder.parts[-3:-1] == (
        "runs",
        f"resnet20-digits-balanced0.9-fixed-{planned().hash[:8]}",
    )
    assert planned("seed=3").folder.name == "s3"
    assert "-erk1000w-draw-" in str(planned("sparsity=erk", "sparsity.budget=1000", "method=draw").folder)
    assert "-dense-fixed-" in str(planned("sparsity=dense").folder)


def test_a_file_enters_the_hash_by_content(tmp_path):
    names = [layer.name for layer in planned().layers]
    for name, density in (("a", 0.5), ("b", 0.5), ("c", 0.25)):
        (tmp_path / name).write_text(json.dumps({"densities": dict.fromkeys(names, density)}))
    a, b, c = (planned("sparsity=file", f"sparsity.file={tmp_path}/{name}") for name in "abc")
    assert a.hash == b.hash != c.hash
    assert a.nominal == pytest.approx(0.5)


def test_field_markers_decide_what_enters_the_identity():
    class Marked(SettingsGroup):
        target: str
        plain: int
        where: Annotated[str, NotIdentity]
        later: Annotated[int, Since(3)]

    assert identity_fields(Marked(target="t", plain=1, where="w", later=3)) == {"plain": 1}
    assert identity_fields(Marked(target="t", plain=1, where="w", later=4)) == {"plain": 1, "later": 4}


def test_the_hash_does_not_depend_on_key_order():
    assert run_hash({"a": 1, "b": 2.0}) == run_hash({"b": 2.0, "a": 1})
