"""trainer.execution=sparse against masked: results, shared checkpoints, and unsupported settings."""

import errno

import pytest
import pytorch_lightning as pl
import torch
from conftest import KILLED, TINY, killed_and_undisturbed, need_kernels, outcome, read, rows
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ersparse import models, sparsify
from ersparse.config.optimizer_settings import OptimizerSettings
from ersparse.config.rewiring_rules import RewiringRules
from ersparse.kernels.compile import library
from ersparse.lightning.callbacks import Checkpoints, FixedMask, WeightAverage
from ersparse.lightning.callbacks.rewiring import Rewiring
from ersparse.lightning.callbacks.sparse_rewiring import SparseRewiring
from ersparse.lightning.classifier import Classifier
from ersparse.lightning.sparse_classifier import SparseClassifier
from ersparse.sparse.layers import prunable_layers
from ersparse.sparse.mask import digest

SPARSE = "trainer.execution=sparse"
EXACT = [*TINY, "trainer.max_epochs=2", "trainer.precision=32-true", "optimizer.lr=0.001"]


@pytest.fixture(scope="module", autouse=True)
def compiler():
    need_kernels("float", "float")


def finished(launch, only_run, *words):
    """Return the folder of a run that starts over."""
    status, printed = launch(*EXACT, *words, "fresh=true")
    assert status == 0, printed
    return only_run()


def assert_close(folder, network):
    """Compare within the rounding errors that accumulate over some steps."""
    found = load_file(folder / "network.safetensors")
    assert found.keys() == network.keys() and any(name.endswith("_mask") for name in found)
    for name, wanted in network.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_sparse_execution_trains_like_masked_execution(launch, only_run):
    masked = finished(launch, only_run)
    network, before = load_file(masked / "network.safetensors"), read(masked)
    sparse = finished(launch, only_run, SPARSE)
    assert_close(sparse, network)
    after = read(sparse)
    assert (before["hash"], before["mask_sha256"]) == (after["hash"], after["mask_sha256"])
    assert [record["config"]["trainer"]["execution"] for record in (before, after)] == ["masked", "sparse"]


RIGL = RewiringRules(
    delta_t=3, drop_fraction=0.3, final_fraction=0.0, decay="cosine", t_end=1.0, grow="gradient", regrow=True,
    scope="layer", skip_step=False, grown_value="zero", grown_state="zero", keep_flow=False, final_sparsity=None,
    schedule="cubic", prune_until=1.0,
)  # fmt: skip
RULES = {
    "rigl": RIGL,
    "set": RIGL.model_copy(update={"grow": "random", "grown_value": "random"}),
    "skip": RIGL.model_copy(update={"skip_step": True, "scope": "global", "regrow": False}),
    "granet": RIGL.model_copy(update={"final_sparsity": 0.95}),
    "gmp": RIGL.model_copy(update={"final_sparsity": 0.95, "t_end": 0.0, "grow": "random"}),
    "shared": RIGL.model_copy(update={"grow": "ch3", "drop": "mest", "redistribute": "momentum"}),
    "srigl": RIGL.model_copy(update={"fan_in": True, "ablate": 0.3}),
}


def rewired(module, rewiring, rules, optimizer, **options):
    """Train a network in double precision for ten steps, three of them updates."""
    torch.manual_seed(0)
    network = models.resnet20(10, width=0.25).double()
    sparsify(network, "erk", 0.8)
    random = torch.Generator().manual_seed(1)
    images = torch.randn(200, 3, 16, 16, generator=random, dtype=torch.float64)
    batches = DataLoader(TensorDataset(images, torch.randint(10, (200,), generator=random)), batch_size=20)
    masking, average = [FixedMask()] if module is Classifier else [], WeightAverage(0.8)
    trainer = pl.Trainer(
        max_steps=10, accelerator="cpu",
        callbacks=[*masking, rewiring(rules, prunable_layers(network), seed=0), average],
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trained = module(network, 10, optimizer, 1, ["test"])
    before = digest(trained.masks())
    trainer.fit(trained, batches, batches)
    assert digest(trained.masks()) != before
    for name, mask in trained.masks().items():
        assert not average.dense()[name][~mask].any() and average.dense()[name][mask].count_nonzero() > 0
    return trained, average.dense()


@pytest.mark.parametrize(
    "name, optimizer",
    [
        ("rigl", "lion"), ("set", "adam"), ("skip", "sgd"), ("granet", "adamw"), ("gmp", "sgd"),
        ("shared", "sgd"),
        pytest.param("srigl", "sgd", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_sparse_rewiring_matches_masked_rewiring(name, optimizer):
    """The trained parameters are the kept weights, those of normalisations, and a bias."""
    settings = OptimizerSettings(
        name=optimizer, lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=False, milestones=[], gamma=0.1,
        ham={"alpha": 2.0, "beta": 0.5} if name in ("set", "skip") else {},
    )  # fmt: skip
    rules = RULES[name]
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5} if name == "rigl" else {}
    masked, masked_average = rewired(Classifier, Rewiring, rules, settings, **options)
    sparse, sparse_average = rewired(SparseClassifier, SparseRewiring, rules, settings, **options)
    found = sparse.final_state()
    assert found.keys() == masked.final_state().keys()
    for name, wanted in masked.final_state().items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    for name, wanted in masked_average.items():
        torch.testing.assert_close(
            sparse_average[name], wanted, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )
    masks = sparse.masks()
    others = sum(p.numel() for name, p in sparse.network.named_parameters() if name not in masks)
    trained = sum(p.numel() for p in sparse.parameters() if p.requires_grad)
    assert trained == others + sum(int(mask.sum()) for mask in masks.values())


@pytest.mark.parametrize(
    "first, second, words",
    [
        ("masked", "sparse", ["optimizer.no_decay=[norm,bias]", "optimizer.weight_decay=0.1"]),
        ("sparse", "masked", ["method.reparametrization=sign_in", "method.factors.reset_every=1"]),
        ("masked", "sparse", ["method.reparametrization=pilot", "method.factors.penalty=0.01"]),
        ("sparse", "sparse", ["method=granet", "method.delta_t=2", "method.t_end=1", "method.final_sparsity=0.95"]),
    ],
)
@pytest.mark.slow
def test_checkpoints_resume_under_either_execution(launch, only_run, monkeypatch, first, second, words):
    """A full disk interrupts the run after the first checkpoint; the same execution gives identical results."""
    through = finished(launch, only_run, f"trainer.execution={second}", *words)
    network, wanted = load_file(through / "network.safetensors"), outcome(through)
    save = Checkpoints.on_train_epoch_end

    def save_and_stop(self, trainer, module):
        save(self, trainer, module)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_train_epoch_end", save_and_stop)
        assert launch(*EXACT, *words, f"trainer.execution={first}", "fresh=true")[0] == 1
    status, printed = launch(*EXACT, *words, f"trainer.execution={second}")
    assert status == 0 and "resuming after epoch 1" in printed, printed
    assert_close(only_run(), network)
    assert first != second or outcome(only_run()) == wanted


@pytest.mark.slow
def test_bfloat16_results_are_close(launch, only_run):
    exact, near = (
        [float(epoch["train/loss"]) for epoch in rows(finished(launch, only_run, SPARSE, f"trainer.precision={name}"))]
        for name in ("32-true", "bf16-mixed")
    )
    assert near != exact and near == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(process, tmp_path):
    """The run is rewired, and `delta_t` does not divide an epoch."""
    words = [*KILLED, SPARSE, "method=rigl", "method.delta_t=7", "method.t_end=1"]
    (_, killed), (_, undisturbed) = killed_and_undisturbed(process, tmp_path, words, "epoch00003")
    assert outcome(killed) == outcome(undisturbed)


def test_without_a_compiler_execution_is_masked(launch, only_run, monkeypatch):
    library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, printed = launch(*TINY, SPARSE)
    assert status == 0 and read(only_run())["config"]["trainer"]["execution"] == "masked"
    said = "trainer.execution=sparse: masked instead, there is no C++ compiler (no-such-compiler)"
    assert printed.count(said) == 1


def with_reflection(num_classes, channels=3, width=1.0):
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1, padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, num_classes),
    )  # fmt: skip
    network.shrinks_by = 1
    return network


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["trainer=gpu"],
            "trainer.execution=sparse: needs trainer.accelerator=cpu; must be auto, masked or compiled on a GPU",
        ),
        (["method=imp"], "trainer.execution=sparse: must be auto, masked, compiled or graphed with method=imp"),
        (
            ["method=rigl", "method.grown_state=keep"],
            "method.grown_state=keep: must be zero with trainer.execution=sparse",
        ),
        (
            ["method=granet", "method.final_sparsity=0.95", "trainer.devices=2", "trainer.accelerator=cpu"],
            "trainer.execution=sparse: must be auto, masked or compiled with method.final_sparsity or "
            "method.redistribute on several devices",
        ),
        (
            ["model.sync_batchnorm=true"],
            "trainer.execution=sparse: must be auto, masked or compiled with model.sync_batchnorm",
        ),
        (
            [f"model._target_={__name__}.with_reflection", "model.name=reflection"],
            "trainer.execution=sparse: 0 (Conv2d with padding=(1, 1), reflect) is not covered; must be auto",
        ),
    ],
)
def test_unsupported_settings_are_refused(launch, tmp_path, monkeypatch, words, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    status, printed = launch(SPARSE, *words)
    assert status == 2 and message in printed and printed.count("\n") == 1 and not list(tmp_path.iterdir())
