"""Rewiring and pruning schedules in a LightningModule of one's own."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ersparse
from ersparse.errors import UserError
from ersparse.sparse.mask import masks_of

DATA = TensorDataset(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 5)


class Theirs(pl.LightningModule):
    """Its layers lie in a part that has another name than `network`, or beside it."""

    def __init__(self, part="body", head=False):
        super().__init__()
        torch.manual_seed(0)
        setattr(self, part, nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)))
        self.part, self.head, self.kept = part, nn.Linear(5, 5) if head else nn.Identity(), []

    def training_step(self, batch, index):
        return F.cross_entropy(self.head(getattr(self, self.part)(batch[0])), batch[1])

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        for name, mask in masks_of(self).items():
            assert self.get_parameter(name).grad[~mask].eq(0).all()
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_batch_end(self, *_):
        for name, mask in masks_of(self).items():
            assert self.get_parameter(name)[~mask].eq(0).all()
        self.kept.append({name: mask.clone() for name, mask in masks_of(self).items()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def fit(module, callback, **options):
    pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], gradient_clip_val=1.0, **options,
    ).fit(module, DataLoader(DATA, 4))  # fmt: skip
    return module


@pytest.mark.parametrize("method", ["rigl", "set"])
@pytest.mark.parametrize("build", [Theirs, lambda: Theirs("network"), lambda: Theirs("network", head=True)])
def test_rewire_equals_the_handle_of_plain_pytorch(method, build):
    module, plain = build(), build()
    for network in (module, plain):
        ersparse.sparsify(network, "uniform", 0.6, flow="none")
    fit(module, ersparse.Rewire(method, delta_t=3, seed=5))
    bare = plain.network if module.part == "network" and isinstance(module.head, nn.Identity) else plain
    optimizer = plain.configure_optimizers()
    handle = ersparse.rewire(bare, optimizer, method, steps=20, delta_t=3, seed=5)
    for _ in range(2):
        for batch in DataLoader(DATA, 4):
            optimizer.zero_grad()
            plain.training_step(batch, 0).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            handle.step()
    assert not all(mask.equal(module.kept[0][name]) for name, mask in module.kept[-1].items())
    for name, mask in masks_of(plain).items():
        assert mask.equal(masks_of(module)[name]) and mask.sum() == module.kept[0][name].sum()
        assert module.get_parameter(name).allclose(plain.get_parameter(name))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_prune_follows_the_cubic_schedule(scope, accumulate):
    module = fit(Theirs(), ersparse.Prune(0.75, every=2, scope=scope), accumulate_grad_batches=accumulate)
    steps = 20 // accumulate
    last = int(0.75 * steps) // 2 * 2
    assert sum(int(mask.sum()) for mask in masks_of(module).values()) == round(0.25 * 88)
    found = [sum(int(m.sum()) for m in kept.values()) if kept else 88 for kept in module.kept]
    for step in range(2, last + 1, 2):
        expected = 88 * (0.25 + 0.75 * (1 - step / last) ** 3)
        after = found[step * accumulate] if step * accumulate < len(found) else found[-1]
        assert after == pytest.approx(expected, abs=2 if scope == "layer" else 0.51)
    for before, after in zip(module.kept[4:], module.kept[5:], strict=False):
        assert all(not (after[name] & ~mask).any() for name, mask in before.items())


@pytest.mark.parametrize(
    "callback, message",
    [
        (lambda: ersparse.Rewire("rigel"), "method=rigel: must be one of rigl, set, granet"),
        (lambda: ersparse.Rewire("rigl", every=3), "every=3: no such option"),
        (lambda: fit(Theirs(), ersparse.Rewire()), "module=Theirs: has no masks; call sparsify first"),
        (lambda: ersparse.Prune(1.5), "level=1.5: must lie in"),
        (lambda: ersparse.Prune(0.5, every=0), "every=0: must be a positive number"),
        (lambda: ersparse.Prune(0.5, start=0.8), "start=0.8, end=0.75: must be parts of the training"),
        (lambda: fit(Theirs(), ersparse.Prune(0.5, every=50)), "every=50: no step is due between 0.0 and 0.75 of 20"),
    ],
)
def test_bad_arguments_are_one_line(callback, message):
    with pytest.raises(UserError) as error:
        callback()
    assert message in str(error.value) and "\n" not in str(error.value)
