"""Edge-popup in loops and LightningModules of one's own, against the module of runs."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from fitting import SGD
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import ersparse
from ersparse.config.edge_popup_search import EdgePopupSearch
from ersparse.errors import UserError
from ersparse.lightning.edge_popup import EdgePopupClassifier
from ersparse.sparse.mask import masks_of

RANDOM = torch.Generator().manual_seed(0)
DATA = TensorDataset(torch.randn(24, 1, 6, 6, generator=RANDOM), torch.arange(24) % 5)
SEARCH = {"levels": 2, "lr_restart": True, "affine": False, "scope": "layer", "min_keep": 0}


def built(level=0.4):
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*body, nn.Linear(32, 5))
    if level:
        ersparse.sparsify(network, "uniform", level, flow="none")
    return network


def train(logits, parameters, steps=4):
    optimizer = torch.optim.SGD(parameters, 0.5, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        for x, y in DataLoader(DATA, 8):
            optimizer.zero_grad()
            F.cross_entropy(logits(x), y).backward()
            optimizer.step()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("source", [0.4, None])
def test_the_ticket_is_that_of_the_module_of_runs(source, signed):
    network, theirs = built(source), built(source)
    search = ersparse.edge_popup(network, signed=signed, seed=3)
    settings = EdgePopupSearch(**SEARCH, signed=signed, score_init="kaiming_uniform")
    module = EdgePopupClassifier(theirs, 5, SGD, 2, ["test"], settings, seed=3)
    first = search.masks()
    for level in (0.6, 0.8):
        search.set_level(level)
        module.set_density(1 - level)
        train(network, search.parameters())
        train(module, list(module.trainable_parameters()))
        masks = search.masks()
        assert all(mask.equal(masks[name]) for name, mask in module.masks().items())
    assert any((masks[name] & ~first[name]).any() or not masks[name].equal(first[name]) for name in masks)


def test_only_scores_move_and_the_ticket_becomes_the_masks():
    network, plain = built(), built()
    search = ersparse.edge_popup(network, min_keep=1)
    assert search.level == pytest.approx(1 - search.source_density())
    search.set_level(0.8)
    train(network, search.parameters())
    x = DATA.tensors[0]
    logits = network.eval()(x)
    masks = search.finish()
    assert network(x).equal(logits) and masks_of(network).keys() == masks.keys()
    for name, parameter in plain.named_parameters():
        kept = masks.get(name, torch.ones(()))
        assert network.get_parameter(name).equal(parameter * kept) and network.get_parameter(name).requires_grad
        assert name not in masks or masks[name].sum() == round(0.2 * masks[name].numel())
    assert all((mask & ~masks_of(plain)[name]).sum() == 0 for name, mask in masks.items())


def test_tied_weights_have_one_ticket():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x).relu())

    network = Tied()
    search = ersparse.edge_popup(network)
    search.set_level(0.5)
    assert len(search.masks()) == 1 and network.first.weight.equal(network.second.weight)
    assert network.second.weight.count_nonzero() == 18
    search.finish()
    assert network.first.weight is network.second.weight


class Theirs(pl.LightningModule):
    def __init__(self, level=0.4):
        super().__init__()
        self.body, self.levels = built(level), []

    def training_step(self, batch, index):
        return F.cross_entropy(self.body(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5, momentum=0.9, weight_decay=1e-4)


def fit(module, callback, tmp_path, epochs=4, stop=None, resume=None):
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback, *([stop] if stop else [])],
    )  # fmt: skip
    trainer.fit(module, DataLoader(DATA, 8), ckpt_path=resume, weights_only=True)
    return module


class SaveAfter(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, module):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(self.path)


def test_the_callback_equals_the_plain_loop_and_is_resumed(tmp_path):
    module, plain = Theirs(), Theirs()
    fit(module, ersparse.EdgePopup(0.8, levels=2, schedule="linear", seed=3), tmp_path, stop=SaveAfter(tmp_path / "c"))
    search = ersparse.edge_popup(plain, seed=3)
    optimizer, start = plain.configure_optimizers(), search.source_density()
    for level in (1 - (start + 0.2) / 2, 0.8):
        search.set_level(level)
        for _ in range(2):
            for batch in DataLoader(DATA, 8):
                optimizer.zero_grad()
                plain.training_step(batch, 0).backward()
                optimizer.step()
    masks, resumed = search.finish(), Theirs()
    fit(resumed, ersparse.EdgePopup(0.8, levels=2, schedule="linear", seed=9), tmp_path, resume=tmp_path / "c")
    for name, mask in masks.items():
        assert mask.sum() == round(0.2 * mask.numel())
        for found in (module, resumed):
            assert mask.equal(masks_of(found)[name]) and found.get_parameter(name)[~mask].eq(0).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda path: ersparse.EdgePopup(1.0), "level=1.0: must lie in (0, 1)"),
        (lambda path: ersparse.EdgePopup(levels=0), "levels=0: must be a positive number"),
        (lambda path: ersparse.EdgePopup(schedule="code"), "schedule=code: must be geometric or linear"),
        (lambda path: ersparse.EdgePopup(affine=True), "affine=True: no such option; the options are score_init"),
        (lambda path: fit(Theirs(), ersparse.EdgePopup(levels=5), path), "levels=5: must be at most the Trainer's max"),
        (lambda path: fit(Theirs(), ersparse.EdgePopup(0.2, levels=2), path), "level=0.2: must be at least the spars"),
        (lambda path: ersparse.edge_popup(built(), score_init="zero"), "score_init=zero: must be kaiming_uniform or"),
        (lambda path: ersparse.edge_popup(built()).set_level(1.5), "level=1.5: must lie in [0, 1)"),
        (lambda path: ersparse.edge_popup(built()).set_level(0.9999), "level=0.9999: layer 0.weight with its 54"),
        (lambda path: ersparse.edge_popup(nn.LSTM(3, 4)), "weight_ih_l0: edge-popup cannot replace the weights of"),
        (lambda path: ersparse.edge_popup(built(), exclude="0.*"), "exclude=['0.*']: 0.weight has a mask"),
    ],
)
def test_bad_arguments_are_one_line(call, message, tmp_path):
    with pytest.raises(UserError) as error:
        call(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_network_that_is_refused_is_as_before():
    network = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 4))
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(UserError):
        ersparse.edge_popup(network)
    assert before.keys() == network.state_dict().keys() and all(p.requires_grad for p in network.parameters())
