"""Prunable weights of every kind of layer: their axes, masks, gradients and positions."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize
from torch.utils.flop_counter import FlopCounterMode

import ersparse
from ersparse.errors import UserError
from ersparse.lightning.callbacks import SparseInit
from ersparse.sparse import flow_repair, scores
from ersparse.sparse.channel_graph import trace
from ersparse.sparse.degrees import degrees
from ersparse.sparse.density import er, erk
from ersparse.sparse.layers import Layer, prunable_layers, prunable_weights
from ersparse.sparse.mask import enforce, masks_of
from ersparse.sparse.positions import positions
from ersparse.sparse.reachability import on_paths
from ersparse.sparse.rng import generator
from ersparse.sparse.weight_use import unusable_weight


class Call(nn.Module):
    """Calls a layer with the inputs that it takes, made from one tensor, and returns its first output."""

    def __init__(self, layer: nn.Module, inputs: int = 1) -> None:
        super().__init__()
        self.layer, self.inputs = layer, inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.layer(*[x] * self.inputs)
        if isinstance(self.layer, nn.RNNCellBase):
            output = self.layer(x, output)  # a second step, whose state is not zero
        while isinstance(output, tuple):
            output = output[0]
        return output


# a layer, the shape of its input, and the names of its prunable weights
LAYERS = {
    "transposed 1d": (lambda: Call(nn.ConvTranspose1d(8, 6, 3, 2)), (2, 8, 5), ["weight"]),
    "transposed 2d": (lambda: Call(nn.ConvTranspose2d(8, 12, 3, groups=4)), (2, 8, 4, 4), ["weight"]),
    "transposed 3d": (lambda: Call(nn.ConvTranspose3d(4, 6, 2)), (2, 4, 2, 2, 2), ["weight"]),
    "bilinear": (lambda: Call(nn.Bilinear(12, 12, 5), 2), (3, 12), ["weight"]),
    "attention": (
        lambda: Call(nn.MultiheadAttention(16, 2), 3), (5, 2, 16), ["in_proj_weight", "out_proj.weight"],
    ),
    "attention kdim": (
        lambda: Call(nn.MultiheadAttention(16, 2, kdim=16, vdim=16, add_bias_kv=True), 3), (5, 2, 16),
        ["in_proj_weight", "out_proj.weight"],
    ),
    "lstm": (
        lambda: Call(nn.LSTM(8, 16, 2, bidirectional=True, proj_size=4)), (5, 2, 8),
        [f"weight_{kind}_l{n}{side}" for n in (0, 1) for side in ("", "_reverse") for kind in ("ih", "hh", "hr")],
    ),
    "gru": (lambda: Call(nn.GRU(8, 12)), (5, 2, 8), ["weight_ih_l0", "weight_hh_l0"]),
    "rnn": (lambda: Call(nn.RNN(8, 16)), (5, 2, 8), ["weight_ih_l0", "weight_hh_l0"]),
    "lstm cell": (lambda: Call(nn.LSTMCell(8, 12)), (2, 8), ["weight_ih", "weight_hh"]),
    "gru cell": (lambda: Call(nn.GRUCell(8, 12)), (2, 8), ["weight_ih", "weight_hh"]),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), (2, 5, 16),
        ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_weight_is_masked_trained_and_restored(kind):
    torch.manual_seed(0)
    build, shape, names = LAYERS[kind]
    network, x = build(), torch.randn(shape)
    prefix = "" if kind == "encoder layer" else "layer."
    masks, record = ersparse.sparsify(network, "uniform", 0.7, sampling="exact", flow="none")
    assert list(masks) == [prefix + name for name in names]
    assert record["sparsity"]["realised"] == pytest.approx(0.7, abs=0.01)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    ersparse.keep_masks(network, optimizer)
    before = copy.deepcopy(network.state_dict())
    for _ in range(2):
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
    for name, mask in masks.items():
        weight = network.get_parameter(name).detach()
        assert weight[~mask].eq(0).all()
        assert mask.all() or not weight[mask].equal(before[name][mask]), name
    fresh = build()
    fresh.load_state_dict({k: v for k, v in network.state_dict().items() if v.dtype != torch.bool})
    with torch.no_grad():  # in evaluation mode, the encoder layer takes its fast path
        expected = copy.deepcopy(network).train().requires_grad_(True)
        for part in expected.modules():
            if isinstance(part, nn.Dropout | nn.MultiheadAttention):
                part.p = part.dropout = 0.0
        assert torch.allclose(network.eval()(x), expected(x), atol=1e-6)
        assert network(x).equal(fresh.eval()(x))
    fresh.load_state_dict(before, strict=False)
    ersparse.remove_masks(network)
    assert not masks_of(network)


def test_embeddings_are_prunable_on_request_only():
    network = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2))
    assert list(prunable_weights(network)) == ["1.weight"]
    assert list(prunable_weights(network, embeddings=True)) == ["0.weight", "1.weight"]


def test_separate_projections_of_attention_are_masked():
    network = nn.MultiheadAttention(16, 2, kdim=10, vdim=12)
    masks, _ = ersparse.sparsify(network, "erk", 0.5, flow="none")
    assert [tuple(mask.shape) for mask in masks.values()] == [(16, 16), (16, 10), (16, 12), (16, 16)]
    assert list(masks) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]
    network(torch.randn(3, 2, 16), torch.randn(4, 2, 10), torch.randn(4, 2, 12))[0].sum().backward()


TRANSPOSED = [(nn.ConvTranspose2d, 8, 12, 4), (nn.ConvTranspose2d, 6, 9, 1), (nn.ConvTranspose1d, 10, 4, 2)]


def dependence(layer: nn.Module, spatial: int, n_in: int) -> torch.Tensor:
    """Return which output channels depend on which input channels, [n_out, n_in], by gradients."""
    x = torch.ones(1, n_in, *[3] * spatial, requires_grad=True)
    with torch.no_grad():
        layer.weight.abs_()
    outputs = layer(x).flatten(2).sum(2)[0]
    rows = [torch.autograd.grad(y, x, retain_graph=True)[0].flatten(2).sum(2)[0] != 0 for y in outputs]
    return torch.stack(rows)


@pytest.mark.parametrize("kind, n_in, n_out, groups", TRANSPOSED)
@pytest.mark.parametrize("flow", ["none", "move", "add", "resample"])
def test_degrees_and_repair_of_transposed_layers_follow_their_channels(kind, n_in, n_out, groups, flow):
    torch.manual_seed(1)
    network = kind(n_in, n_out, 3, groups=groups)
    [layer] = prunable_layers(network)
    assert (layer.n_in, layer.n_out, layer.fan_in) == (n_in, n_out, network.weight.numel() // n_out)
    masks, record = ersparse.sparsify(network, "uniform", 0.75 if flow == "resample" else 0.85, flow=flow)
    edges = dependence(network, network.weight.dim() - 2, n_in)
    in_degrees, out_degrees = degrees(masks["weight"], layer)
    assert edges.sum(1).tolist() == in_degrees.tolist() and edges.sum(0).tolist() == out_degrees.tolist()
    if flow != "none":
        assert edges.any(1).all() and edges.any(0).all()
    zero = record["layers"][0]["zero_degree"]
    drawn = flow_repair.none(masks["weight"], layer, 1.0, generator(0))[1]
    assert flow != "none" or zero == {"in": drawn.zero_in, "out": drawn.zero_out}


def test_rows_of_a_grouped_transposed_layer_by_hand():
    layer = Layer("l", (4, 3, 2), groups=2, transposed=True)
    stored = torch.arange(24).reshape(layer.shape)
    rows = torch.empty(6, 2, 2, dtype=torch.int64)
    for group in range(2):
        for i in range(2):
            for o in range(3):
                rows[group * 3 + o, i] = stored[group * 2 + i, o]
    assert layer.to_rows(stored).equal(rows) and layer.from_rows(rows).equal(stored)


def test_er_densities_count_the_channels_of_transposed_layers():
    """A grouped layer and its transpose have the same channels, so they have the same density."""
    pair = [nn.Conv2d(8, 12, 3, groups=4), nn.ConvTranspose2d(8, 12, 3, groups=4)]
    for rule in (er, erk):
        first, second = rule(prunable_layers(nn.Sequential(*pair)), 0.1)
        assert first == second


def test_paths_through_a_transposed_layer_match_gradients():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2, 0, 0, 2), nn.Conv2d(4, 2, 1))
    ersparse.sparsify(network, "uniform", 0.6, flow="none")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_() if parameter.dim() > 1 else parameter.zero_()
    network(torch.ones(1, 2, 4, 4)).sum().backward()
    live = on_paths(masks_of(network), prunable_layers(network), trace(network))
    assert sum(int(mask.sum()) for mask in live.values()) < sum(int(mask.sum()) for mask in masks_of(network).values())
    for name, mask in masks_of(network).items():
        assert live[name].equal(mask & (network.get_parameter(name).grad != 0)), name


def test_initialization_scales_the_fan_in_of_transposed_layers():
    """The standard deviation is that of the fan-in: 4 inputs x 9 weights at density 0.5."""
    torch.manual_seed(3)
    network = nn.ConvTranspose2d(16, 512, 3, groups=4)
    ersparse.sparsify(network, "uniform", 0.5, flow="none", sampling="exact")

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

    for mode in ("layer", "neuron"):
        SparseInit(mode, 0).setup(None, Module(), "fit")
        kept = network.weight.detach()[network.weight_mask]
        assert float(kept.std()) == pytest.approx((2 / 18) ** 0.5, rel=0.05)
        assert network.weight.detach()[~network.weight_mask].eq(0).all()


def test_synflow_and_functional_calls_reach_recurrent_weights():
    network = Call(nn.LSTM(4, 3))
    found = scores.linearised(network)
    assert all((p >= 0).all() for p in found.parameters()) and found.layer.bias_ih_l0.eq(0).all()
    zeros = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    assert functional_call(network, zeros, (torch.randn(5, 2, 4),)).eq(0).all()


class ImageUser(nn.Module):
    """A network of an image with every kind of layer whose FLOPs PyTorch counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 12, 2, 2, groups=2)
        self.again = nn.Conv2d(12, 12, 1, bias=False)
        self.attention, self.head = nn.MultiheadAttention(12, 2, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(self.again(self.up(self.conv(x))))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens)[0]
        return self.head(tokens).mean(1)


def test_positions_agree_with_the_flops_that_pytorch_counts():
    network = ImageUser()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 8, 8))
    pairwise = 2 * 2 * 64 * 64 * 12  # queries x keys and attention x values, which have no weights
    sizes = {layer.name: layer.size for layer in prunable_layers(network)}
    uses = positions(network, 3, 8)
    assert 2 * sum(sizes[name] * uses[name] for name in sizes) == counter.get_total_flops() - pairwise
    assert uses["again.weight"] == 2 * 64 and uses["attention.in_proj_weight"] == 64 == uses["head.weight"]


class Sequence(nn.Module):
    """Reads the rows of an image as a sequence, by a layer and by a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.cell = nn.GRU(24, 10, batch_first=True), nn.LSTMCell(10, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, state = self.rnn(x.transpose(1, 2).flatten(2))[0], None
        for step in range(states.shape[1]):
            state = self.cell(states[:, step], state)
        return state[0]


def test_positions_of_recurrent_layers_are_their_steps():
    uses = positions(Sequence(), 3, 8)
    assert uses == {name: 0 if name == "unused.weight" else 8 for name in prunable_weights(Sequence())}


class Tied(nn.Module):
    """A language model whose output layer, registered first, has the weight of its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 20)
        self.twin = nn.Linear(8, 20)
        self.embedding = nn.Embedding(20, 8)
        self.embedding.weight = self.twin.weight = self.head.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(x)) + self.twin(self.embedding(x))


@pytest.mark.parametrize("copied", [False, True])
def test_tied_weights_count_once_and_stay_removed(copied):
    network = Tied()
    dense = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    masks, record = ersparse.sparsify(network, "uniform", 0.5, flow="none")
    network = copy.deepcopy(network) if copied else network
    assert list(masks) == ["head.weight"] and [row["size"] for row in record["layers"]] == [160]
    network.load_state_dict(dense, strict=False)  # the embedding is loaded last
    removed = ~masks["head.weight"]
    assert network.embedding.weight is network.head.weight is network.twin.weight
    assert network.head.weight.detach()[removed].eq(0).all()
    assert network.head.weight.detach()[~removed].equal(dense["embedding.weight"][~removed])
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    ersparse.keep_masks(network, optimizer)
    for _ in range(2):
        network(torch.arange(20)).square().sum().backward()
        optimizer.step()
    assert network.embedding.weight.detach()[removed].eq(0).all()
    ersparse.remove_masks(network)
    network.load_state_dict(dense)
    assert network.head.weight.detach().equal(dense["head.weight"])


class Standardised(nn.Conv2d):
    """A convolution with weight standardisation (Qiao et al. 2019)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (variance + 1e-5).sqrt(), self.bias)


class Centred(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight - self.weight.mean()).t()


class CentredInConvForward(nn.ConvTranspose2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv_transpose2d(x, weight=self.weight + 0.1)


def weight_norm_of_recurrence() -> nn.Module:
    return parametrizations.weight_norm(nn.LSTM(4, 4), "weight_hh_l0")


def parametrized_attention() -> nn.Module:
    attention = nn.MultiheadAttention(4, 2)
    parametrize.register_parametrization(attention, "in_proj_weight", nn.Tanh())
    return attention


REFUSED = {
    "standardised": (lambda: Standardised(3, 4, 3, stride=2, dilation=2), "weight is transformed by .* Standardised,"),
    "depthwise": (lambda: Standardised(4, 4, 3, groups=4, bias=False), "weight is transformed by .* Standardised,"),
    "centred": (lambda: Centred(5, 5), "weight is transformed by the forward pass of Centred,"),
    "shifted": (lambda: CentredInConvForward(5, 5, 2), "weight is transformed by .* CentredInConvForward,"),
    "weight_norm": (weight_norm_of_recurrence, "weight_hh_l0 is computed from other tensors"),
    "parametrized": (parametrized_attention, "in_proj_weight is computed from other tensors"),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_do_not_use_their_weight_as_it_is_are_refused(name, device):
    build, message = REFUSED[name]
    network = nn.Sequential(nn.Identity(), build()).to(device)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(UserError, match=rf"^module=Sequential: 1\.{message}"):
        ersparse.sparsify(network, flow="none")
    assert list(network.state_dict()) == list(state) and not masks_of(network)


def shifting(kind: type[nn.Module], *arguments: int, weight: str = "weight") -> nn.Module:
    """A layer of a subclass that adds a number to its weight in its forward pass."""

    def forward(self, *inputs):
        shifted = dict(self.named_parameters()) | {weight: getattr(self, weight) + 0.1}
        return functional_call(kind(*arguments), shifted, inputs)

    return type(f"Shifting{kind.__name__}", (kind,), {"forward": forward})(*arguments)


@pytest.mark.parametrize("kind, arguments, weight", [
    (nn.Linear, (5, 5), "weight"), (nn.Linear, (1, 3), "weight"), (nn.Conv1d, (3, 4, 3), "weight"),
    (nn.Conv3d, (2, 3, (1, 2, 3)), "weight"), (nn.ConvTranspose2d, (3, 4, 2), "weight"),
    (nn.RNNCell, (4, 5), "weight_hh"), (nn.LSTMCell, (4, 5), "weight_ih"), (nn.GRU, (4, 5), "weight_ih_l0"),
    (nn.MultiheadAttention, (4, 2), "in_proj_weight"), (nn.MultiheadAttention, (4, 1), "in_proj_weight"),
    (nn.Bilinear, (3, 4, 5), "weight"), (nn.Embedding, (5, 3), "weight"), (nn.EmbeddingBag, (5, 3), "weight"),
])  # fmt: skip
def test_layers_of_every_kind_are_tried_with_inputs_that_they_take(kind, arguments, weight):
    layer = shifting(kind, *arguments, weight=weight)
    assert f"{weight} is transformed by the forward pass of {type(layer).__name__}" in unusable_weight(layer, [weight])


class Padded(nn.Conv2d):
    """As timm's Conv2dSame: pads, and may cast and scale the weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.pad(x, (1, 1, 1, 1))
        return nn.functional.conv2d(x, self.weight.to(x.dtype) * 2, self.bias, self.stride)


class Matmul(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bi,oi->bo", x, self.weight) + (x @ self.weight.t().contiguous())


class Signed(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.sign(), self.bias)


class Modulated(nn.Conv2d):
    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x * style, self.weight)


class Doubled(nn.LSTM):
    def forward(self, x: torch.Tensor, state: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(2 * x, state)


def test_layers_that_use_their_weight_as_it_is_are_accepted():
    accepted = [Padded(3, 4, 3), Matmul(5, 5), Matmul(2, 2), Signed(4, 4), Modulated(3, 3, 1), Doubled(4, 4)]
    for layer in [*accepted, nn.LazyLinear(3), nn.utils.skip_init(nn.Linear, 2, 2)]:
        assert unusable_weight(layer, list(prunable_weights(layer))) is None, layer


def test_weight_norm_of_a_recurrence_after_its_mask_is_refused():
    network = nn.LSTM(4, 4)
    ersparse.sparsify(network, "uniform", 0.5, flow="none")
    parametrizations.weight_norm(network, "weight_hh_l0")
    with pytest.raises(UserError, match=r"^weight_hh_l0: is computed from other tensors since its mask"):
        enforce(network)
