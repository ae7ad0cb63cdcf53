"""Weights whose memory is not their own or has no values, and modules in which a mask has no place."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import ersparse
from ersparse.errors import UserError
from ersparse.sparse import wrappers
from ersparse.sparse.mask import masks_of


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))


def with_weights(first, second=None):
    made = network()
    made[0].weight = nn.Parameter(first)
    if second is not None:
        made[2].weight = nn.Parameter(second)
    return made


def beside(**attributes):
    made = network()
    for key, value in attributes.items():
        setattr(made[0], key, value)
    return made


BIG = torch.randn(16, 8)
SHARED = torch.randn(8, 8)
REFUSED = {
    "the same memory": (lambda: with_weights(SHARED, SHARED), "2.weight shares memory with 0.weight but is another p"),
    "transposed": (lambda: with_weights(SHARED, SHARED.t()), "2.weight shares memory with 0.weight"),
    "overlapping": (lambda: with_weights(BIG[:8], BIG[4:12]), "2.weight shares memory with 0.weight"),
    "expanded": (lambda: with_weights(torch.randn(1, 8).expand(8, 8)), "0.weight has elements that share memory"),
    "expanded rows": (lambda: with_weights(torch.randn(8, 1).expand(8, 8)), "0.weight has elements that share memory"),
    "meta": (lambda: network().to("meta"), "0.weight has no values (meta device)"),
    "flattened": (lambda: with_weights(torch.randn(64)), "0.weight has shape [64], must have two axes or more"),
    "empty": (lambda: with_weights(torch.randn(0, 8)), "0.weight has shape [0, 8], must have elements"),
    "buffer": (lambda: beside(weight_mask=nn.Buffer(torch.ones(8, 8))), "0.weight is beside an attribute weight_mask"),
    "parameter": (lambda: beside(weight_mask=nn.Parameter(torch.ones(8, 8))), "0.weight is beside an attribute"),
    "attribute": (lambda: beside(weight_mask=None), "0.weight is beside an attribute weight_mask of Linear"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_masked_is_refused_in_one_line(kind):
    build, message = REFUSED[kind]
    made = build()
    for function in (ersparse.sparsify, ersparse.prune):
        with pytest.raises(UserError) as error:
            function(made, level=0.5)
        assert str(error.value).startswith(f"module=Sequential: {message}") and not masks_of(made)


@pytest.mark.parametrize("views", [(BIG[:8], BIG[8:]), (BIG[::2], BIG[1::2]), (BIG[:8].t(), BIG[8:].t())])
def test_views_of_one_tensor_without_a_common_element_are_masked(views):
    made = with_weights(*(view.clone() for view in views))
    shared = torch.empty_like(BIG)
    for layer, view in zip((made[0], made[2]), views, strict=True):
        place = shared.as_strided(view.shape, view.stride(), view.storage_offset())
        layer.weight = nn.Parameter(place.copy_(view))
    masks, _ = ersparse.sparsify(made, "uniform", 0.5)
    for layer, view, mask in zip((made[0], made[2]), views, masks.values(), strict=True):
        assert layer.weight.detach().equal(view * mask)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64, torch.complex128])
def test_removed_weights_of_every_type_are_zero(kind):
    made = network()
    made[0].weight = nn.Parameter(torch.ones(8, 8).to(kind), requires_grad=kind != torch.float8_e4m3fn)
    masks, _ = ersparse.sparsify(made, "uniform", 0.5, flow="none")
    assert (made[0].weight.detach().to(torch.complex128) != 0).equal(masks["0.weight"])
    ersparse.keep_masks(made, torch.optim.SGD(made.parameters(), 0.1))


def test_a_network_of_inference_tensors_keeps_its_masks():
    with torch.inference_mode():
        made = network()
    masks, _ = ersparse.sparsify(made, "uniform", 0.5)
    ersparse.keep_masks(made, torch.optim.SGD(made.parameters(), 0.1))
    assert made[0].weight[~masks["0.weight"]].eq(0).all()


class Doubled(nn.Module):
    """Counts how often it computes a weight in training mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, weight):
        self.count += self.training
        return 2 * weight


def counted(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


@pytest.mark.parametrize("put_on", [parametrizations.spectral_norm, nn.utils.spectral_norm, counted])
def test_a_refused_parametrization_keeps_its_state(put_on):
    made = network()
    put_on(made[0])
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(UserError, match=r"0\.weight is computed from other tensors"):
        ersparse.sparsify(made)
    assert all(value.equal(before[key]) for key, value in made.state_dict().items()) and made.training


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_networks_in_fully_sharded_data_parallel_are_refused(place, monkeypatch):
    """A class in its place: the real one needs a GPU."""

    class Sharded(nn.Sequential):
        pass

    monkeypatch.setattr(wrappers, "SHARDING", f"{Sharded.__module__}.{Sharded.__qualname__}")
    made = Sharded(network()) if place == "outside" else nn.Sequential(Sharded(nn.Linear(8, 8)), nn.Linear(8, 8))
    for function in (ersparse.sparsify, lambda n: ersparse.keep_masks(n, torch.optim.SGD(n.parameters(), 0.1))):
        with pytest.raises(
            UserError, match=r"is sharded over devices \(FullyShardedDataParallel\), must be whole; use"
        ):
            function(made)
