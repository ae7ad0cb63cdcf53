"""Optimizers see the gradients of kept weights alone, compared with the training of a vector of kept weights."""

import copy
import io

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader

import ersparse
from ersparse.sparse.keep import keep, keep_gradients, record_dense_gradients, take_dense_gradients
from ersparse.sparse.mask import masks_of

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network_of(*layers, flow="none"):
    torch.manual_seed(0)
    network = nn.Sequential(*(layers or [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)])).double()
    ersparse.sparsify(network, "uniform", 0.6, sampling="exact", flow=flow)
    return network


def loss_of(network, x=X):
    return 10 * network(x).square().mean()


class Compact(nn.Module):
    """The same network, whose parameters are vectors of kept weights; there is nothing else to see."""

    def __init__(self, network):
        super().__init__()
        self.body, self.masks = copy.deepcopy(network), {n: m.clone() for n, m in masks_of(network).items()}
        self.body.requires_grad_(False)
        self.own = {}
        for name, parameter in network.named_parameters():
            kept = parameter.detach()[self.masks[name]] if name in self.masks else parameter.detach().clone()
            self.own[name] = nn.Parameter(kept)
            self.register_parameter(name.replace(".", "_"), self.own[name])

    def dense(self):
        masks = self.masks
        return {
            n: torch.zeros(masks[n].shape, dtype=p.dtype).masked_scatter(masks[n], p) if n in masks else p
            for n, p in self.own.items()
        }

    def forward(self, x):
        return functional_call(self.body, self.dense(), (x,))


class Lars(torch.optim.Optimizer):
    """The rate of a tensor is in proportion to the norm of its weights over that of its gradient (You et al. 2017)."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=0.1 * float(p.norm() / p.grad.norm()))


def plain(optimizer, closure, parameters):
    closure()
    optimizer.step()


def clipped(optimizer, closure, parameters):
    closure()
    nn.utils.clip_grad_norm_(parameters, 0.1)
    optimizer.step()


def accumulated(optimizer, closure, parameters):
    closure()
    closure(zero=False)
    nn.utils.clip_grad_norm_(parameters, 0.1, foreach=True)
    optimizer.step()


def closures(optimizer, closure, parameters):
    optimizer.step(closure)


def sharpness_aware(optimizer, closure, parameters):
    """One step of SAM (Foret et al. 2021): the gradient at the worst point nearby."""
    closure()
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    moves = [0.1 * p.grad / norm for p in parameters]
    with torch.no_grad():
        torch._foreach_add_(parameters, moves)
    closure()
    with torch.no_grad():
        torch._foreach_sub_(parameters, moves)
    optimizer.step()


WAYS = {
    "clip_grad_norm": (lambda p: torch.optim.SGD(p, 0.5, momentum=0.9), clipped),
    "accumulation": (lambda p: torch.optim.AdamW(p, 0.1), accumulated),
    "closure": (lambda p: torch.optim.LBFGS(p, 0.5, max_iter=4), closures),
    "lars": (Lars, plain),
    "sam": (lambda p: torch.optim.SGD(p, 0.1), sharpness_aware),
}


def trained(network, optimizer_of, step):
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = optimizer_of(parameters)
    if not isinstance(network, Compact):
        ersparse.keep_masks(network, optimizer)

    def closure(zero=True):
        if zero:
            optimizer.zero_grad()
        loss = loss_of(network)
        loss.backward()
        return loss

    for _ in range(3):
        step(optimizer, closure, parameters)
    return dict(network.named_parameters())


@pytest.mark.parametrize("way", WAYS)
def test_training_equals_that_of_a_vector_of_kept_weights(way):
    network = network_of()
    compact = Compact(network)
    before = copy.deepcopy(network)
    found = trained(network, *WAYS[way])
    trained(compact, *WAYS[way])
    for name, dense in compact.dense().items():
        assert found[name].detach().allclose(dense.detach(), rtol=1e-9, atol=1e-12), name
        assert not dense.allclose(before.get_parameter(name))


@pytest.mark.parametrize(
    "optimizer_of",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1, amsgrad=True),
        lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, centered=True),
        lambda p: torch.optim.Muon([x for x in p if x.dim() == 2], 0.1),
    ],
)
def test_moments_of_removed_weights_are_zero(optimizer_of):
    network = network_of()
    optimizer = optimizer_of(list(network.parameters()))
    keep(network, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(network).backward()
        optimizer.step()
    for name, mask in masks_of(network).items():
        weight = network.get_parameter(name)
        moments = [value for value in optimizer.state[weight].values() if value.shape == weight.shape]
        assert moments and weight.detach()[~mask].eq(0).all()
        for value in moments:
            assert value[~mask].eq(0).all() and value[mask].ne(0).any()


CONVOLUTION = lambda: [nn.Conv2d(6, 4, 3), nn.Flatten()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_any_type_and_layout(dtype, memory_format):
    network = network_of(*CONVOLUTION()).to(dtype).to(memory_format=memory_format)
    keep_gradients(network)
    weight, mask = network[0].weight, masks_of(network)["0.weight"]
    weight.backward(torch.full_like(weight, float("nan")))
    assert weight.grad[mask].isnan().all()
    assert weight.grad[~mask].eq(0).all(), "a gradient that is not finite is removed as well"


def test_weights_that_are_frozen_shared_or_masked_later():
    tied = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)).double()
    tied[2].weight = tied[0].weight
    tied.requires_grad_(False)
    hooks = keep_gradients(tied)
    assert not any(p.requires_grad for p in tied.parameters())
    tied.requires_grad_(True)
    masks, _ = ersparse.sparsify(tied, "uniform", 0.5, flow="none")
    loss_of(tied).backward()
    assert (tied[0].weight.grad != 0).equal(masks["0.weight"])
    hooks.remove()
    loss_of(tied).backward()
    assert tied[0].weight.grad.ne(0).all()


@pytest.mark.parametrize("copied", [copy.deepcopy, "pickled"])
def test_copies_have_gradients_of_their_own(copied):
    network = network_of()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    ersparse.keep_masks(network, optimizer)
    if copied == "pickled":
        torch.save(network, buffer := io.BytesIO())
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    else:
        other = copied(network)
    loss_of(other).backward()
    assert all(p.grad is None for p in network.parameters())
    loss_of(network).backward()
    removed = ~masks_of(network)["0.weight"]
    assert network[0].weight.grad[removed].eq(0).all() and other[0].weight.grad[removed].ne(0).any()


@pytest.mark.parametrize("parts", [1, 3])
def test_dense_gradients_are_recorded_once(parts):
    """They are the gradients without hooks, over all parts of a batch."""
    network = network_of()
    reference = copy.deepcopy(network)
    loss_of(reference).backward()
    keep_gradients(network)
    keep_gradients(network)  # the hooks of a second optimizer
    weights = {name: network.get_parameter(name) for name in masks_of(network)}
    record_dense_gradients(weights.values())
    for _ in range(parts):
        (loss_of(network) / parts).backward()
    found = take_dense_gradients(weights)
    for name, mask in masks_of(network).items():
        assert found[name].allclose(reference.get_parameter(name).grad)
        assert weights[name].grad.allclose(found[name] * mask)
    loss_of(network).backward()
    assert take_dense_gradients(weights) == {}


class Watched(pl.LightningModule):
    def __init__(self, optimizer_of=torch.optim.SGD):
        super().__init__()
        self.network, self.lengths = network_of(), []
        self.optimizer_of = optimizer_of

    def training_step(self, batch, index):
        self.before = [p.detach().clone() for p in self.parameters()]
        return loss_of(self.network, batch)

    def on_train_batch_end(self, *_):
        moves = [p.detach() - q for p, q in zip(self.parameters(), self.before, strict=True)]
        self.lengths.append(nn.utils.get_total_norm(moves).item())

    def configure_optimizers(self):
        return self.optimizer_of(self.parameters(), 1.0)


@pytest.mark.parametrize("options", [{}, {"gradient_clip_algorithm": "value"}, {"accumulate_grad_batches": 2}])
def test_lightning_clips_the_gradients_of_kept_weights(options):
    module = Watched()
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ersparse.FixedMask()], gradient_clip_val=1e-3, **options,
    ).fit(module, DataLoader(X, 4))  # fmt: skip
    steps = [length for length in module.lengths if length]
    assert len(steps) == (2 if "accumulate_grad_batches" in options else 4)
    if "gradient_clip_algorithm" not in options:
        assert steps == pytest.approx([1e-3] * len(steps), rel=1e-3)
    else:
        kept = sum(int(m.sum()) for m in masks_of(module.network).values()) + 8 + 3
        assert max(steps) <= 1e-3 * kept**0.5 * (1 + 1e-9)
