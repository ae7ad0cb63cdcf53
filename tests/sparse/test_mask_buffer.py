"""Averages of masked networks: SWA and EMA by PyTorch, Lightning, and code of one's own."""

import copy
import io
import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from safetensors.torch import load, save
from torch import nn
from torch.optim import swa_utils
from torch.utils.data import DataLoader

import ersparse
from ersparse.sparse.mask import attach, enforce, masks_of
from ersparse.sparse.mask_buffer import MaskBuffer, operation


def masked_network(integers=True):
    """BatchNorm's count of batches is an integer, of which PyTorch's get_swa_multi_avg_fn takes no average."""
    network = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6, track_running_stats=integers), nn.Linear(6, 4))
    ersparse.sparsify(network, "uniform", 0.5, flow="none", sampling="exact")
    return network


def rewired(network, seed):
    """Give the network other masks of the same density, and weights that are not zero on all of them."""
    random = torch.Generator().manual_seed(seed)
    masks = {n: torch.rand(m.shape, generator=random) < 0.5 for n, m in masks_of(network).items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=random) + 0.5)
    attach(network, masks)
    enforce(network)


def exact(average):
    """Return whether the kept weights of an average are those of its masks, not more and not fewer."""
    return all((average.get_parameter(name) != 0).equal(mask) for name, mask in masks_of(average).items())


def sparse(average):
    return all(average.get_parameter(name)[~mask].eq(0).all() for name, mask in masks_of(average).items())


def averaged_model(**options):
    def average(network):
        model = swa_utils.AveragedModel(network, **options)
        return model.module, model.update_parameters

    return average


def by_state_dict(update):
    """An average of the values of state dicts, as training scripts and packages have them."""

    def average(network):
        mean = copy.deepcopy(network).eval()

        @torch.no_grad()
        def step(network):
            update(list(mean.state_dict().values()), list(network.state_dict().values()))

        return mean, step

    return average


def interpolate_all(means, values):
    for mean, value in zip(means, values, strict=True):
        mean.copy_(0.9 * mean + 0.1 * value)


def in_place(means, values):
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point() or mean.dtype == torch.bool:
            mean.mul_(0.9).add_(value, alpha=0.1)


def by_difference(means, values):
    for mean, value in zip(means, values, strict=True):
        if mean.dtype != torch.int64:
            mean -= 0.1 * (mean - value)


def interpolate_floats_and_copy_others(means, values):
    floats = [mean for mean in means if mean.is_floating_point()]
    for mean, value in zip(means, values, strict=True):
        if not mean.is_floating_point():
            mean.copy_(value)
    torch._foreach_lerp_(floats, [value for value in values if value.is_floating_point()], 0.1)


UNION = {
    "SWA": averaged_model(use_buffers=True),
    "SWA, foreach": averaged_model(use_buffers=True, multi_avg_fn=swa_utils.get_swa_multi_avg_fn()),
    "SWA by tensor": averaged_model(use_buffers=True, avg_fn=swa_utils.get_swa_avg_fn()),
    "EMA, foreach": averaged_model(use_buffers=True, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)),
    "EMA by tensor": averaged_model(use_buffers=True, avg_fn=swa_utils.get_ema_avg_fn(0.9)),
    "own": by_state_dict(interpolate_all),
    "own, in place": by_state_dict(in_place),
    "own, by difference": by_state_dict(by_difference),
}
LATEST = {
    "SWA without buffers": averaged_model(),
    "EMA without buffers": averaged_model(multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)),
    "own, floats only": by_state_dict(interpolate_floats_and_copy_others),
}


@pytest.mark.parametrize("way", [*UNION, *LATEST])
def test_an_average_has_the_masks_of_the_networks(way):
    network = masked_network(integers=way != "SWA, foreach")
    mean, update = (UNION | LATEST)[way](network)
    masks = {name: mask.clone() for name, mask in masks_of(network).items()}
    for _ in range(3):
        update(network)
    assert sparse(mean) and all(mask.equal(masks[name]) for name, mask in masks_of(mean).items())
    assert mean(torch.ones(2, 8)).isfinite().all()


@pytest.mark.parametrize("way", [*UNION, *LATEST])
def test_an_average_of_a_rewired_network_is_as_sparse_as_its_masks(way):
    """Averaged masks are the union of all; masks that are copied are the latest, and the weights follow them."""
    network = masked_network(integers=way != "SWA, foreach")
    rewired(network, 0)
    mean, update = (UNION | LATEST)[way](network)
    expected = {name: mask.clone() for name, mask in masks_of(network).items()}
    for seed in (0, 1, 2):
        rewired(network, seed)
        update(network)
        for name, mask in masks_of(network).items():
            expected[name] = expected[name] | mask if way in UNION else mask
        assert exact(mean)
    assert all(mask.equal(expected[name]) for name, mask in masks_of(mean).items())


class Module(pl.LightningModule):
    def __init__(self, normalised=True):
        super().__init__()
        self.body, self.seen = masked_network(), 0
        if not normalised:  # StochasticWeightAveraging then makes no additional epoch
            self.body[1] = nn.Identity()

    def training_step(self, batch, index):
        if self.trainer.global_step in (2, 4):
            rewired(self.body, index)
        return self.body(batch).square().mean()

    def validation_step(self, batch, index):
        assert sparse(self.body)
        self.seen += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Lightning, about few workers and a scheduler that it replaces
@pytest.mark.parametrize(
    "callback",
    [
        WeightAveraging,
        lambda: WeightAveraging(use_buffers=False),
        lambda: EMAWeightAveraging(decay=0.9),
        lambda: StochasticWeightAveraging(0.1, swa_epoch_start=1),
    ],
)
@pytest.mark.parametrize("first, normalised", [(True, True), (False, True), (True, False)])
def test_averages_of_lightning(callback, first, normalised, tmp_path):
    module, average = Module(normalised), callback()
    callbacks = [ersparse.FixedMask(), average] if first else [average, ersparse.FixedMask()]
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks, num_sanity_val_steps=0,
    )  # fmt: skip
    data = torch.randn(12, 8)
    trainer.fit(module, DataLoader(data, 4), DataLoader(data, 4))
    assert module.seen and sparse(module.body) and module.body[0].weight.ne(0).any()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert (
        Module.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True, normalised=normalised)
        .body.state_dict()
        .keys()
    )


def saved(state):
    torch.save(state, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("through", [saved, lambda state: load(save(state)), dict, copy.deepcopy])
@pytest.mark.parametrize("assign", [False, True])
def test_state_dicts_are_those_of_plain_boolean_buffers(through, assign):
    network = masked_network()
    state = through(network.state_dict())
    assert all(state[f"{name}_mask"].dtype == torch.bool for name in masks_of(network))
    if through is saved:
        assert all(type(tensor) is torch.Tensor for tensor in state.values())
    other = masked_network()
    other.load_state_dict(state, assign=assign)
    assert all(mask.equal(masks_of(other)[name]) for name, mask in masks_of(network).items())
    mean, update = UNION["SWA"](other)
    update(other)
    update(other)
    assert exact(mean)


def test_masks_stay_masks_when_a_network_moves():
    network = masked_network()
    for moved in (network.double(), network.to(torch.float16), network.to("meta"), network.to_empty(device="cpu")):
        for name, mask in masks_of(moved).items():
            buffer = dict(moved.named_buffers())[f"{name}_mask"]
            assert isinstance(buffer, MaskBuffer) and type(mask) is torch.Tensor and mask.dtype == torch.bool


def test_a_pickled_network_has_masks_once_it_trains():
    torch.save(masked_network(), file := io.BytesIO())
    file.seek(0)
    network = torch.load(file, weights_only=False)
    ersparse.keep_masks(network, torch.optim.SGD(network.parameters(), 0.1))
    mean, update = UNION["SWA"](network)
    update(network)
    update(network)
    assert exact(mean)


def test_ordinary_operations_on_buffers_are_those_of_boolean_tensors():
    mask = masked_network()[0].weight_mask
    plain = torch.from_numpy(mask.numpy().copy())
    assert mask.sum() == plain.sum() and (~mask).equal(~plain) and (mask & plain).equal(plain) and mask.T.equal(plain.T)
    assert type(mask & plain) is type(~mask) is torch.Tensor
    assert mask[0].tolist() == plain[0].tolist() and torch.where(mask, 1, 0).equal(plain.long())
    assert str(mask).startswith("MaskBuffer") and {mask: 1}[mask] == 1
    with pytest.raises(RuntimeError):
        plain - plain  # what an average does; a mask computes with numbers
    assert (mask - mask).eq(0).all()
    assert [operation(n) for n in ("_foreach_sub", "__isub__", "__rsub__", "sub_", "is_complex")] == [
        "sub", "sub", "rsub", "sub", "is_complex",
    ]  # fmt: skip


def test_averages_compile_and_export():
    network = masked_network().eval()
    x = torch.ones(2, 8)
    assert torch.export.export(network, (x,)).module()(x).equal(network(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.compile(network, backend="eager", fullgraph=True)(x).equal(network(x))
