"""Reachability against automatic differentiation: a weight is on a path if its gradient is not zero."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from ersparse import models
from ersparse.sparse import reachability as G
from ersparse.sparse.channel_graph import GraphError, trace
from ersparse.sparse.layers import prunable_layers, prunable_weights
from ersparse.sparse.mask import attach, density_of, enforce


def linearised(network: nn.Module) -> nn.Module:
    """Remove normalisation and maxima, so that positive weights give a linear function with positive coefficients."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2))
    return network.double()


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "resnet50", "resnet110", "vgg16", "vgg19", "wrn28"])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.3])
def test_paths_of_models_match_nonzero_gradients(name, density):
    """Kernels are kept or removed as a whole, and maps have several pixels, so positions in kernels do not matter."""
    network = linearised(getattr(models, name)(5, channels=2, width=0.25))
    layers = prunable_layers(network)
    random = torch.Generator().manual_seed(int(density * 100))
    masks = {
        layer.name: (torch.rand(layer.shape[:2] + (1,) * (len(layer.shape) - 2), generator=random) < density).expand(
            layer.shape
        )
        for layer in layers
    }
    steps = trace(network)
    with torch.no_grad():
        for held in prunable_weights(network).values():
            held.weight.fill_(1 / held.weight[0].numel())
    attach(network, masks)
    enforce(network)
    network(torch.ones(1, 2, 32, 32).double()).sum().backward()
    live = G.on_paths(masks, layers, steps)
    for layer, held in zip(layers, prunable_weights(network).values(), strict=True):
        assert live[layer.name].equal((held.weight.grad != 0) & masks[layer.name]), layer.name
    assert G.effective_density(masks, layers, steps) == density_of(live)


def test_effective_density_matches_a_hand_worked_example():
    """Of three hidden neurons, 0 has no input and 2 no output: the only path runs through 1."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    masks = {
        "1.weight": torch.tensor([[0, 0], [0, 1], [1, 0]]).bool(),
        "3.weight": torch.tensor([[1, 1, 0]]).bool(),
    }
    layers = prunable_layers(network)
    live = G.on_paths(masks, layers, trace(network))
    assert live["1.weight"].int().tolist() == [[0, 0], [0, 1], [0, 0]]
    assert live["3.weight"].int().tolist() == [[0, 1, 0]]
    assert G.effective_density(masks, layers, trace(network)) == 2 / 9


def test_a_shortcut_bypasses_an_empty_layer():
    network = models.resnet20(10)
    layers = prunable_layers(network)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["stages.0.0.conv1.weight"][:] = False
    live = G.on_paths(masks, layers, trace(network))
    assert not live["stages.0.0.conv2.weight"].any(), "nothing reaches it"
    assert live["stages.0.1.conv1.weight"].all(), "the identity goes past"


def test_paths_through_groups_and_flatten():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, groups=2, padding=1), nn.Linear(4 * 9, 1)

        def forward(self, x):
            return self.b(F.relu(self.a(x)).flatten(1))

    network = Grouped()
    layers = prunable_layers(network)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["a.weight"][2:] = False  # the second group is cut
    live = G.on_paths(masks, layers, trace(network))
    assert live["b.weight"].reshape(4, 9).any(1).tolist() == [True, True, False, False]
    masks["b.weight"][:, :9] = False  # and channel 0 is not read
    live = G.on_paths(masks, layers, trace(network))
    assert live["a.weight"].flatten(1).any(1).tolist() == [False, True, False, False]


def test_paths_through_a_concatenation_of_a_shared_layer():
    """One layer is applied twice, its results are concatenated, and part of them is not read."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(6, 1)

        def forward(self, x):
            a = self.shared(self.first(x))
            return self.last(torch.cat((a, self.shared(F.gelu(a))), dim=1))

    network = Twice()
    layers = prunable_layers(network)
    masks = {layer.name: torch.ones(layer.shape, dtype=torch.bool) for layer in layers}
    masks["shared.weight"] = torch.eye(3).bool()
    masks["last.weight"] = torch.tensor([[1, 0, 0, 0, 1, 0]]).bool()  # channel 0 of the first, 1 of the second
    masks["first.weight"][1] = False
    live = G.on_paths(masks, layers, trace(network))
    assert live["last.weight"].int().tolist() == [[1, 0, 0, 0, 0, 0]], "nothing comes through channel 1"
    assert live["shared.weight"].int().tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert live["first.weight"].any(1).tolist() == [True, False, False]


def network_of(forward, **modules):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x):
            return forward(self, x)

    return Network()


def conv(n_in, n_out, kernel=1, **options):
    return nn.Conv2d(n_in, n_out, kernel, bias=False, **options)


def linear(n_in, n_out):
    return nn.Linear(n_in, n_out, bias=False)


FOLLOWED = {
    "flatten": network_of(lambda s, x: s.f(F.relu(s.a(x)).flatten(1)), a=conv(3, 8), f=linear(128, 5)),
    "view": network_of(lambda s, x: s.f(s.a(x).view(x.size(0), -1)), a=conv(3, 8), f=linear(128, 5)),
    "reshape": network_of(lambda s, x: s.f(s.a(x).reshape((x.shape[0], -1))), a=conv(3, 8), f=linear(128, 5)),
    "view of a number": network_of(lambda s, x: s.f(s.a(x).view(-1, 128)), a=conv(3, 8), f=linear(128, 5)),
    "nn.Flatten": nn.Sequential(conv(3, 8), nn.AvgPool2d(2), nn.Flatten(), linear(32, 5), nn.LogSoftmax(1)),
    "mean": network_of(lambda s, x: s.f(s.a(x).mean((2, 3))), a=conv(3, 8), f=linear(8, 5)),
    "mean of the last": network_of(lambda s, x: s.f(s.a(x).mean(dim=[-2, -1])), a=conv(3, 8), f=linear(8, 5)),
    "cat": network_of(lambda s, x: s.b(torch.cat([s.a(x), s.c(x)], 1)), a=conv(3, 4), c=conv(3, 2), b=conv(6, 4)),
    "cat twice": network_of(lambda s, x: s.b(torch.cat([s.a(x)] * 2, dim=1)), a=conv(3, 4), b=conv(8, 6)),
    "cat itself": network_of(lambda s, x: (lambda h: s.b(torch.cat([h, h], 1)))(s.a(x)), a=conv(3, 4), b=conv(8, 6)),
    "cat of features": network_of(
        lambda s, x: (lambda h: s.g(torch.cat((s.f(h), s.e(h)), 1)))(x.flatten(1)),
        f=linear(48, 4), e=linear(48, 3), g=linear(7, 5),
    ),
    "sum with itself": network_of(lambda s, x: (lambda h: s.b(h + h * 0.5))(s.a(x)), a=conv(3, 4), b=conv(4, 6)),
    "used twice": network_of(lambda s, x: s.b(s.a(s.a(x))), a=conv(3, 3), b=conv(3, 6)),
    "transposed": nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False), conv(6, 2)),
    "transposed and grouped": nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 6, 1, groups=2, bias=False), conv(6, 2)),
    "bilinear": network_of(
        lambda s, x: (lambda h: s.b(s.a(h), s.c(h)))(x.flatten(1)),
        a=linear(48, 4), c=linear(48, 3), b=nn.Bilinear(4, 3, 5, bias=False),
    ),
    "recurrent cell": network_of(
        lambda s, x: s.f(s.r(x.flatten(1)[:, :6], s.r(x.flatten(1)[:, 6:12]))),
        r=nn.RNNCell(6, 8, bias=False), f=linear(8, 5),
    ),
    "grouped": nn.Sequential(conv(3, 8), conv(8, 12, groups=4), nn.PReLU(), conv(12, 12, groups=12), conv(12, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_paths_of_supported_operations_match_nonzero_gradients(name, seed):
    """The network has no biases, and its weights and inputs are positive, so gradients vanish only off paths."""
    network = FOLLOWED[name].double()
    if name == "nn.Flatten":
        network[-1] = nn.Identity()  # a softmax has no positive gradient
    layers, random = prunable_layers(network), torch.Generator().manual_seed(seed)
    masks = {layer.name: torch.rand(layer.shape, generator=random) < 0.3 for layer in layers}
    attach(network, masks)
    with torch.no_grad():
        for held in prunable_weights(network).values():
            held.weight.copy_(torch.rand(held.weight.shape, generator=random) + 0.5)
    enforce(network)
    network.zero_grad()
    out = network(torch.rand(2, 3, 4, 4, generator=random).double() + 0.1)
    (out * torch.rand(out.shape, generator=random)).sum().backward()
    live = G.on_paths(masks, layers, trace(network))
    for layer, held in zip(layers, prunable_weights(network).values(), strict=True):
        assert live[layer.name].equal((held.weight.grad != 0) & masks[layer.name]), layer.name


class OwnConv(nn.Conv2d):
    """A name of one's own, with arguments and methods of one's own."""

    def __init__(self, n_in, n_out, note="mine"):
        super().__init__(n_in, n_out, 1, bias=False)
        self.note = note

    def extra_repr(self):
        return self.note

    @staticmethod
    def stride_of(stride):
        return stride


class OwnOwnConv(OwnConv):
    pass


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Scaled(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 2, bias)


class Computed(nn.Conv2d):
    def __getattr__(self, name):
        found = super().__getattr__(name)
        return found * 2 if name == "weight" else found


class Gate(nn.ReLU):
    def forward(self, x):
        return x * x.mean(1, keepdim=True)


def own(kind, *arguments, **options):
    """Return an instance of a new subclass of `kind` without a body."""
    return type(f"Own{kind.__name__}", (kind,), {})(*arguments, **options)


SUBCLASSED = {
    "convolution": lambda: nn.Sequential(OwnConv(3, 8), nn.ReLU(), conv(8, 4)),
    "subclass of a subclass": lambda: nn.Sequential(OwnOwnConv(3, 8), nn.ReLU(), OwnOwnConv(8, 4)),
    "grouped": lambda: nn.Sequential(conv(3, 8), own(nn.Conv2d, 8, 8, 1, groups=4, bias=False)),
    "linear": lambda: nn.Sequential(nn.Flatten(), own(nn.Linear, 48, 8, bias=False), own(nn.Linear, 8, 4, bias=False)),
    "activation and pooling": lambda: nn.Sequential(conv(3, 8), own(nn.ReLU), own(nn.AvgPool2d, 2), conv(8, 4)),
    "a container": lambda: own(nn.Sequential, OwnConv(3, 8), own(nn.Sequential, own(nn.Identity), conv(8, 4))),
    "the network itself": lambda: OwnConv(3, 8),
}


@pytest.mark.parametrize("name", SUBCLASSED)
def test_subclasses_without_a_forward_are_followed_as_their_base(name):
    network = SUBCLASSED[name]().double()
    layers, random = prunable_layers(network), torch.Generator().manual_seed(1)
    masks = {layer.name: torch.rand(layer.shape, generator=random) < 0.3 for layer in layers}
    attach(network, masks)
    with torch.no_grad():
        for held in prunable_weights(network).values():
            held.weight.fill_(0.5)
    enforce(network)
    out = network(torch.rand(2, 3, 4, 4, generator=random).double() + 0.1)
    (out * (torch.rand(out.shape, generator=random) + 0.1)).sum().backward()
    live = G.on_paths(masks, layers, trace(network))
    for layer, held in zip(layers, prunable_weights(network).values(), strict=True):
        assert live[layer.name].equal((held.weight.grad != 0) & masks[layer.name]), layer.name


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "resnet18"])
def test_networks_of_torchvision_with_subclassed_convolutions_are_followed(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    followed = {step.layer for step in trace(network) if step.kind == "layer"}
    assert followed == {layer.name for layer in prunable_layers(network)}


@pytest.mark.parametrize("layer", [Standardised(3, 8, 1), Scaled(3, 8, 1), Computed(3, 8, 1)])
@pytest.mark.parametrize("alone", [True, False])
def test_subclasses_that_compute_something_else_are_refused(layer, alone):
    with pytest.raises(GraphError):
        trace(layer if alone else nn.Sequential(layer, nn.ReLU(), conv(8, 4)))


def test_replaced_forwards_of_instances_are_followed_as_they_compute():
    """What is computed counts, not the class: a weight that is changed is refused, one that is used is followed."""
    patched, plain = conv(3, 8), conv(3, 8)
    patched.forward = lambda x: F.conv2d(x, patched.weight * 2)
    for network in (nn.Sequential(patched, conv(8, 4)), patched):
        with pytest.raises(GraphError, match=r"through mul of a prunable weight.*flow=none needs no channel graph"):
            trace(network)
    plain.forward = lambda x: F.conv2d(x, plain.weight)
    assert [op.layer for op in trace(nn.Sequential(plain, conv(8, 4)))] == ["", "0.weight", "1.weight", ""]


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.extra, self.b = conv(3, 4), conv(3, 4), conv(4, 5)

    def forward(self, x, more=None, double=False):
        h = self.a(x)
        if more is not None:
            h = h + self.extra(more)
        return self.b(h + h if double else h)


def test_forward_arguments_keep_their_defaults():
    assert [step.layer for step in trace(Optional())] == ["", "a.weight", "b.weight", ""]


class Caught(nn.Module):
    """Handles a failure by itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 5)

    def forward(self, x):
        try:
            h = self.a(x[:, :2])
        except RuntimeError:
            h = self.a(x)
        return self.b(h).cumsum(1)


@pytest.mark.parametrize(
    "network, said",
    [
        (nn.Sequential(conv(3, 4), network_of(lambda s, x: x.cumsum(1))), r"cumsum in 1 \(Network\)"),
        (Caught(), "cumsum; "),
        (network_of(lambda s, x: s.f(x) if x.sum() > 0 else x, f=linear(4, 5)), "_local_scalar_dense, which needs its"),
        (network_of(lambda s, x: s.f(x[:, x[0].argsort()]), f=linear(4, 5)), "sort"),
        (network_of(lambda s, x: F.linear(x, s.f.weight.abs()), f=linear(4, 5)), "abs of a prunable weight"),
        (network_of(lambda s, x: F.linear(x, s.f.weight + s.g(x).mean()), f=linear(4, 5), g=linear(4, 1)), "add of a"),
        (nn.Sequential(nn.LSTM(4, 5)), r"recurrent layers in 0 \(LSTM\)"),
        (network_of(lambda s, x: s.f(torch.zeros(4).add_(x[0])), f=linear(4, 5)), "add into a tensor that"),
    ],
)  # fmt: skip
def test_unsupported_operations_are_named(network, said):
    """Each of these networks would get a wrong density if the operation were treated like a similar one."""
    with pytest.raises(GraphError, match=f"channels cannot be followed through .*{said}.*flow=none needs no channel"):
        trace(network)


def test_writing_a_part_of_a_tensor_is_refused():
    def forward(self, x):
        h, own = self.f(x), self.g(x)
        h[:, :2] = own[:, :2]
        return h

    with pytest.raises(GraphError, match="copy into a part of a tensor"):
        trace(network_of(forward, f=linear(4, 5), g=linear(4, 5)))


def test_an_index_on_the_meta_device_is_refused_where_its_values_matter():
    network = network_of(lambda s, x: s.g(s.f(x)[:, s.order]), f=linear(4, 5), g=linear(2, 3))
    network.order = torch.tensor([3, 1], device="meta")
    with pytest.raises(GraphError, match="index by an index without values"):
        trace(network)
    network.order = torch.tensor([3, 1])
    read = trace(network)[2].reads[0]
    assert (read >> 1).tolist() == [[5, 3]], "channels 2 to 6 are the outputs of f"


class Grown(nn.Module):
    """Takes images of 18 x 18 pixels only, and says so by Lightning's attribute if asked to."""

    def __init__(self, tell):
        super().__init__()
        self.a, self.f = conv(3, 8), linear(8 * 18 * 18, 5)
        self.example_input_array = torch.zeros(1, 3, 18, 18) if tell else None

    def forward(self, x):
        return self.f(self.a(x).view(-1, 8 * 18 * 18))


def test_an_input_of_unknown_shape_is_asked_for():
    with pytest.raises(GraphError, match=r"input \[2, 3, .*example_input_array may give an input.*flow=none needs no"):
        trace(Grown(tell=False))
    for graph in (trace(Grown(tell=True)), trace(Grown(tell=False), (2, 3, 18, 18))):
        assert [op.layer for op in graph] == ["", "a.weight", "f.weight", ""]


def test_tracing_leaves_the_network_and_random_numbers_alone():
    network = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.RReLU(), conv(8, 4)).train()
    before, random = {k: v.clone() for k, v in network.state_dict().items()}, torch.random.get_rng_state()
    trace(network)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert network.training and torch.random.get_rng_state().equal(random)
    assert torch.backends.mha.get_fastpath_enabled() and not nn.modules.module._global_forward_pre_hooks


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda n: torch.compile(n, backend="eager")])
def test_wrapped_networks_are_followed(wrap):
    inside = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4))
    assert len(trace(inside)) == len(trace(wrap(inside))) == 4
