"""Sparse execution against PyTorch's dense layers in double precision: outputs, gradients, training, and errors."""

import copy
import itertools
import os
import platform
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, need_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ersparse import keep_masks, models, sparsify
from ersparse.kernels import compile as compiling
from ersparse.kernels.buffer_reuse import share_gradients
from ersparse.kernels.buffers import Precision
from ersparse.kernels.fused_graph import FusedGraph
from ersparse.kernels.network import SparseNetwork, to_dense
from ersparse.kernels.nodes import Convolution, NotCovered
from ersparse.kernels.shapes import ImageShape
from ersparse.sparse.mask import attach, enforce, masks_of

COVERED = ("resnet18", "resnet20", "resnet50", "resnet110", "vgg16", "vgg19", "wrn28")
DOUBLE = Precision(torch.float64, torch.float64)


@pytest.fixture(scope="module", autouse=True)
def compiler():
    need_kernels("double", "double")


def masked(network, density, seed=0):
    """Attach Bernoulli masks to the network in double precision; channels may have no weights."""
    network = network.double()
    random = torch.Generator().manual_seed(seed)
    layers = {
        f"{name}.weight" if name else "weight": module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear)
    }
    attach(network, {n: torch.rand(m.weight.shape, generator=random) < density for n, m in layers.items()})
    enforce(network)
    return network


def assert_same(network, x):
    """Compare the output, the gradients of input and parameters, and the running statistics."""
    reference, sparse = copy.deepcopy(network), SparseNetwork(network, DOUBLE)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = sparse(ours), reference(theirs)
    torch.testing.assert_close(a, b)
    direction = torch.randn(b.shape, dtype=b.dtype, generator=torch.Generator().manual_seed(1))
    a.backward(direction), b.backward(direction)
    torch.testing.assert_close(ours.grad, theirs.grad)
    masks = masks_of(reference)
    for (name, parameter), trained in zip(reference.named_parameters(), sparse.trainable_parameters(), strict=True):
        gradient = parameter.grad[masks[name]] if name in masks else parameter.grad
        torch.testing.assert_close(trained.grad, gradient, msg=lambda m, name=name: f"{name}: {m}")
    for (name, found), wanted in zip(network.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(found, wanted, msg=lambda m, name=name: f"{name}: {m}")
    with torch.no_grad():
        torch.testing.assert_close(sparse.eval()(x), reference.eval()(x))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    images=st.integers(1, 35),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 2),
    dilation=st.sampled_from([(1, 1), (2, 1), (3, 2)]),
    bias=st.booleans(),
    density=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_convolutions_match_pytorch(images, channels, size, kernel, padding, stride, groups, dilation, bias, density):
    covered = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple(max(p, k - s) for p, k, s in zip(padding, covered, size, strict=True))  # one output pixel or more
    into, out = channels[0] * groups, channels[1] * groups
    layer = nn.Conv2d(into, out, kernel, stride, padding, dilation, groups, bias)
    assert_same(masked(layer, density), torch.randn(images, into, *size, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kernel, dilation", [((2, 4), 1), ((1, 7), 1), ((4, 2), (1, 3))])
def test_padding_to_the_same_size_matches_pytorch(kernel, dilation):
    """An odd number of zero rows or columns has one more at the end."""
    first = nn.Conv2d(2, 4, kernel, padding="same", dilation=dilation)
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 3, kernel[::-1], padding="same"))
    assert_same(masked(network, 0.6), torch.randn(19, 2, 5, 7, dtype=torch.float64))


def test_convolutions_after_zero_padding_match_pytorch():
    """Padded before the layer, by different numbers on the four sides, and by the layer."""
    network = nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.ZeroPad2d(1),
                            nn.Conv2d(4, 3, 2))  # fmt: skip
    assert_same(masked(network, 0.6), torch.randn(19, 2, 5, 8, dtype=torch.float64))


def scaled_norm():
    """Return a normalisation whose outputs exceed 6 and are below 0."""
    norm = nn.BatchNorm2d(5)
    norm.weight.data.fill_(8.0)
    return norm


OPERATIONS = {
    "relu": [nn.ReLU()],
    "relu6, max": [scaled_norm(), nn.ReLU6(), nn.MaxPool2d(2)],
    "relu6, average": [scaled_norm(), nn.ReLU6(), nn.AvgPool2d(2)],
    "norm": [nn.BatchNorm2d(5)],
    "norm, relu, pool": [nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)],
    "max 2": [nn.MaxPool2d(2), nn.ReLU()],
    "max 3": [nn.MaxPool2d(3), nn.ReLU()],
    "max 2x3": [nn.ReLU(), nn.MaxPool2d((2, 3))],
    "average": [nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2)],
    "global average": [nn.AdaptiveAvgPool2d(1)],
    "max 3, 2, 1": [nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
    "max 3x2, ceil": [nn.MaxPool2d((3, 2), (2, 1), (1, 0), ceil_mode=True), nn.BatchNorm2d(5)],
    "max with gaps": [scaled_norm(), nn.ReLU6(), nn.MaxPool2d(2, 3)],
    "average 3, 2, 1": [scaled_norm(), nn.ReLU6(), nn.AvgPool2d(3, 2, 1)],
    "average of the image, ceil": [nn.AvgPool2d(3, 2, 1, True, False)],
    "average of the padding, ceil": [nn.AvgPool2d((2, 3), 2, (0, 1), True)],
    "adaptive average": [nn.ReLU(), nn.AdaptiveAvgPool2d((3, 2))],
    "adaptive average, larger": [nn.AdaptiveAvgPool2d(13)],
    "adaptive max": [nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveMaxPool2d((4, 3))],
    "silu, max": [nn.BatchNorm2d(5), nn.SiLU(), nn.MaxPool2d(3, 2, 1)],
    "gelu, average": [nn.GELU(), nn.AvgPool2d(2)],
    "upsampled": [nn.BatchNorm2d(5), nn.ReLU(), nn.Upsample(scale_factor=(2, 3))],
    "upsampled, silu": [nn.SiLU(), nn.UpsamplingNearest2d(scale_factor=2), nn.BatchNorm2d(5)],
    "two activations": [nn.Tanh(), nn.LeakyReLU(0.2), nn.Sigmoid()],
    "two norms": [nn.ReLU(), nn.BatchNorm2d(5), nn.MaxPool2d(2), nn.BatchNorm2d(5)],
}


@pytest.mark.parametrize("operations", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("side", [8, 11])  # 11 is not a multiple of any pooling window
def test_operations_between_convolutions_match_pytorch(operations, side):
    network = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), *copy.deepcopy(operations), nn.Conv2d(5, 3, 1))
    assert_same(masked(network, 0.6), torch.randn(21, 2, side, side, dtype=torch.float64))


class Residual(nn.Module):
    """An activation and a pooling after a residual sum."""

    def __init__(self, *operations):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.norm, self.operations = nn.BatchNorm2d(5), nn.Sequential(*operations)

    def forward(self, x):
        x = self.first(x)
        return self.operations(self.norm(self.second(x)) + x)


@pytest.mark.parametrize("operations", [[nn.ReLU(), nn.MaxPool2d(3, 2, 1)], [nn.AvgPool2d(3, 1)], [nn.GELU()]])
def test_operations_after_a_residual_sum_match_pytorch(operations):
    network = Residual(*copy.deepcopy(operations))
    assert_same(masked(network, 0.6), torch.randn(21, 2, 7, 6, dtype=torch.float64))


ACTIVATIONS = [
    nn.LeakyReLU(0.3), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish(), nn.Sigmoid(), nn.Hardsigmoid(), nn.Tanh(),
    nn.ELU(0.7),
]  # fmt: skip


def identity(channels):
    layer = nn.Conv2d(channels, channels, 1, bias=False)
    layer.weight.data.copy_(torch.eye(channels)[..., None, None])
    return layer


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations_match_pytorch(activation):
    """In double precision, in float32 to a relative error of 3e-6 where they are not near 0, and in bfloat16."""
    x = torch.cat([torch.linspace(-30, 30, 481), torch.tensor([-1e3, -90.0, -3.0, 3.0, 89.0, 1e3, 1e-20])]).double()
    x = x.repeat(2, 1).view(2, 4, 2, 61)  # 122 pixels of two images
    assert_same(masked(nn.Sequential(identity(4), activation), 1.0), x)
    wanted = x.requires_grad_()
    y = activation(wanted)
    y.sum().backward()
    for stored, tolerance in ((torch.float32, 3e-6), (torch.bfloat16, 1e-2)):
        given = x.detach().to(stored).float().requires_grad_()
        found = SparseNetwork(nn.Sequential(identity(4), activation), Precision(torch.float32, stored))(given)
        found.sum().backward()
        if stored == torch.bfloat16:
            wanted = given.detach().double().requires_grad_()
            y = activation(wanted)
            y.sum().backward()
        near = {"rtol": tolerance, "atol": tolerance}
        torch.testing.assert_close(found.double(), y, **near)
        torch.testing.assert_close(given.grad.double(), wanted.grad, **near)


class SqueezeExcitation(nn.Module):
    """As MobileNetV3 has them, or with linear layers and views."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.first, self.last = linear, nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 3, 1)
        layer = nn.Linear if linear else lambda *channels: nn.Conv2d(*channels, 1)
        self.down, self.up, self.pool = layer(6, 4), layer(4, 6), nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = F.silu(self.first(x))
        batch, channels, _, _ = x.size()
        scale = x.mean((2, 3)) if self.linear else self.pool(x)
        scale = F.hardsigmoid(self.up(F.relu(self.down(scale))))
        if self.linear:
            scale = scale.view(batch, channels, 1, 1)
        return self.last(scale * x)


class DenseBlock(nn.Module):
    """Concatenations of all that comes before, the images too, and a product of two tensors of one shape."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 + 3 * n, 3, 3, padding=1) for n in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 + 3 * n) for n in range(3))
        self.last = nn.Linear(11 * 6, 4)

    def forward(self, x):
        features = [x]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)))))
        features[2] = features[2] * features[1] * features[1]
        x = F.max_pool2d(torch.cat(features, dim=1), 2)
        return self.last(x.view(x.size(0), -1))


class Gates(nn.Module):
    """Products and concatenations of features."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(30, 7), nn.Linear(30, 7), nn.Linear(14, 3)

    def forward(self, x):
        x = x.reshape(-1, 30)
        y = self.first(x)
        return self.last(torch.cat([y * torch.sigmoid(self.second(x)), y * y], -1))


@pytest.mark.parametrize(
    "build", [lambda: SqueezeExcitation(False), lambda: SqueezeExcitation(True), DenseBlock, Gates]
)
def test_products_and_concatenations_match_pytorch(build):
    torch.manual_seed(0)
    channels = 5 if build is Gates else 2
    assert_same(
        masked(build(), 0.6), torch.randn(21, channels, *((3, 2) if channels == 5 else (4, 7)), dtype=torch.float64)
    )


ONE_OPERAND = {
    "convolution": lambda layer, x: layer(x),
    "relu": lambda layer, x: F.relu(layer(x)),
    "silu": lambda layer, x: F.silu(layer(x)),
}
TWO_OPERANDS = {
    "sum": lambda layer, x, y: layer(x) + y,
    "sum, relu": lambda layer, x, y: F.relu(y + layer(x)),
    "product": lambda layer, x, y: x * layer(y),
}


class AnyGraph(nn.Module):
    """Operations on earlier results of one shape; what nothing reads is convolved, added to the first, and pooled."""

    def __init__(self, operations):
        super().__init__()
        self.plan = [(kind, first % n, second % n) for n, (kind, first, second) in enumerate(operations, 1)]
        read = {i for kind, *both in self.plan for i in (both if kind in TWO_OPERANDS else both[:1])}
        self.unread = [i for i in range(len(operations) + 1) if i not in read]
        self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(len(operations) + 1))
        self.before_sum, self.last = nn.Conv2d(3 * len(self.unread), 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        results = [self.layers[-1](x)]
        for (kind, first, second), layer in zip(self.plan, self.layers, strict=False):
            if kind in TWO_OPERANDS:
                results.append(TWO_OPERANDS[kind](layer, results[first], results[second]))
            else:
                results.append(ONE_OPERAND[kind](layer, results[first]))
        total = results[0] + self.before_sum(torch.cat([results[i] for i in self.unread], 1))
        return self.last(F.max_pool2d(F.relu(total), 2))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    operations=st.lists(
        st.tuples(
            st.sampled_from([*ONE_OPERAND, *TWO_OPERANDS]),
            st.integers(0, 9),
            st.integers(0, 9),
        ),
        min_size=2,
        max_size=10,
    )
)
def test_networks_of_any_graph_match_pytorch(operations):
    torch.manual_seed(0)
    assert_same(masked(AnyGraph(operations), 0.5), torch.randn(19, 3, 9, 7, dtype=torch.float64))


def test_parameters_have_gradients_though_the_images_have_none():
    """The images are an operand of a sum, of a product and of a concatenation."""

    class Shortcuts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))

        def forward(self, x):
            return torch.cat([x + self.first(x), x * self.second(x), self.third(x), x], 1)

    network, x = masked(Shortcuts(), 0.6), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    reference, sparse = copy.deepcopy(network), SparseNetwork(network, DOUBLE)
    for run in (reference, sparse):
        run(x).square().sum().backward()
    masks = masks_of(reference)
    for (name, parameter), trained in zip(reference.named_parameters(), sparse.trainable_parameters(), strict=True):
        torch.testing.assert_close(trained.grad, parameter.grad[masks[name]] if name in masks else parameter.grad)


class Dropouts(nn.Module):
    """Dropout of images, of pixels, of channels and of features."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 4, 3), nn.Linear(16, 3)
        self.pixels, self.channels, self.features = nn.Dropout(0.3), nn.Dropout2d(0.5), nn.Dropout(0.8)

    def forward(self, x):
        x = self.pixels(F.relu(self.first(F.dropout(x, 0.1, self.training))))
        x = F.max_pool2d(self.channels(self.second(x)), 2)
        return self.last(self.features(x.flatten(1)))


def test_dropout_draws_the_numbers_of_pytorch():
    network, x = masked(Dropouts(), 0.6), torch.randn(21, 2, 8, 8, dtype=torch.float64)
    reference, sparse = copy.deepcopy(network), SparseNetwork(network, DOUBLE)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    for seed in range(2):
        for run, images in ((sparse, ours), (reference, theirs)):
            torch.manual_seed(seed)
            run(images).square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    weight, mask = reference.last.weight, masks_of(reference)["last.weight"]
    torch.testing.assert_close(sparse.values[2].grad, weight.grad[mask])
    with torch.no_grad():
        torch.testing.assert_close(sparse.eval()(x), reference.eval()(x))


def test_signals_match_pytorch():
    network = nn.Sequential(
        nn.Conv1d(2, 6, 5, 2, 2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(3, 2, 1),
        nn.Conv1d(6, 4, 3, padding="same", dilation=2, groups=2), nn.GELU(), nn.AvgPool1d(2, 1),
    )  # fmt: skip
    head = nn.Conv1d(4, 3, 1), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(6, 3), nn.BatchNorm1d(3)
    x = torch.randn(19, 2, 37, dtype=torch.float64)
    assert_same(masked(nn.Sequential(*copy.deepcopy(network), *head), 0.6), x)
    assert_same(masked(network, 0.6), x)


def test_features_match_pytorch():
    network = nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 3))
    assert_same(masked(network, 0.6), torch.randn(19, 9, dtype=torch.float64))


class Reshaped(nn.Module):
    def __init__(self, reshape):
        super().__init__()
        self.layer, self.reshape, self.last = nn.Conv2d(2, 3, 3), reshape, nn.Linear(12, 3)

    def forward(self, x):
        return self.last(self.reshape(self.layer(x)))


@pytest.mark.parametrize(
    "reshape",
    [
        lambda x: x.view(x.size(0), -1), lambda x: x.view(-1, 12), lambda x: x.reshape(x.shape[0], 12),
        lambda x: torch.reshape(x, (x.size(dim=0), -1)), lambda x: x.flatten(1), lambda x: x.view(x.size()[0], 12),
    ],
)  # fmt: skip
def test_views_are_covered(reshape):
    assert_same(masked(Reshaped(reshape), 0.6), torch.randn(5, 2, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    "reshape, message",
    [
        (lambda x: x.view(-1, 6), r"view of \[3, 2, 2\] numbers"),
        (lambda x: x.view(x.size(0), 3, 4), "view to another shape than"),
        (lambda x: x.view(-1, -1), "view to another shape than"),
        (lambda x: x + x.mean((2, 3), keepdim=True), r"a sum of \[3, 2, 2\] and \[3, 1, 1\] numbers"),
        (lambda x: x + x.mean((2, 3)), r"add of \[B, features\] and \[B, C, H, W\]"),
        (lambda x: torch.cat([x, x], 2), "concatenation along another dimension than 1"),
        (lambda x: x.mean(1), "mean over other dimensions than 2 and 3"),
        (lambda x: x * 2, "mul of other than two tensors"),
    ],
)
def test_shapes_that_are_not_covered_are_named(reshape, message):
    with pytest.raises(NotCovered, match=message):
        FusedGraph(Reshaped(reshape)).shapes(ImageShape(2, 4, 4))


def test_normalisations_of_flattened_pixels_are_not_covered():
    for channels, message in ((3, "_2 of "), (12, "12 features of 3 channels")):
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.BatchNorm1d(channels))
        with pytest.raises(NotCovered, match=message):
            FusedGraph(network).shapes(ImageShape(2, 4, 4))


def test_functions_are_covered_as_their_modules_are():
    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)

        def forward(self, x):
            x = F.max_pool2d(F.leaky_relu(self.first(x), 0.1), 3, stride=2, padding=1)
            x = F.avg_pool2d(F.gelu(self.second(x), approximate="tanh"), 2, 1, ceil_mode=True)
            return torch.sigmoid(F.adaptive_avg_pool2d(x, (2, 3)))

    assert_same(masked(Functions(), 0.6), torch.randn(18, 2, 9, 8, dtype=torch.float64))


def test_linear_layers_on_images_and_on_features_match_pytorch():
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 6 * 4, 7), nn.ReLU(), nn.Linear(7, 4)
    )
    assert_same(masked(network, 0.5), torch.randn(19, 2, 8, 6, dtype=torch.float64))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    images=st.sampled_from([1, 15, 16, 17, 31, 128, 129, 150]),
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    bias=st.booleans(),
    density=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_networks_of_linear_layers_match_pytorch(images, widths, bias, density):
    """Vectors of several images stand in a row, the last of which are not full."""
    layers = [nn.Flatten()]
    for n_in, n_out in itertools.pairwise([2 * 3 * 3, *widths]):
        layers += [nn.Linear(n_in, n_out, bias=bias), nn.ReLU()]
    network = masked(nn.Sequential(*layers[:-1]), density)
    assert_same(network, torch.randn(images, 2, 3, 3, dtype=torch.float64))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 19), (33, 1, 1), (5, 4, 4)])
@pytest.mark.parametrize("images", [1, 31, 47])
def test_images_enter_and_leave_unchanged(shape, images, stored):
    """A convolution with the identity as its kernel returns small integers, which bfloat16 represents, as they are."""
    layer = nn.Conv2d(shape[0], shape[0], 1, bias=False)
    layer.weight.data.copy_(torch.eye(shape[0])[..., None, None])
    attach(layer, {"weight": layer.weight != 0})
    x = torch.randint(-128, 128, (images, *shape)).float().requires_grad_()
    y = SparseNetwork(layer, Precision(torch.float32, stored))(x)
    y.backward(2 * x)
    assert torch.equal(y, x) and torch.equal(x.grad, 2 * x)


def test_gradients_match_central_differences():
    """Along a random direction in all parameters and the images; the error is of order 1e-8."""
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    torch.manual_seed(0)
    sparse = SparseNetwork(masked(network, 0.6), DOUBLE)
    x = torch.randn(5, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    tensors = [x, *sparse.trainable_parameters()]
    directions = [torch.randn_like(t) for t in tensors]
    sparse(x).logsumexp(1).sum().backward()
    slope = sum((t.grad * d).sum() for t, d in zip(tensors, directions, strict=True))

    @torch.no_grad()
    def moved(by):
        for t, d in zip(tensors, directions, strict=True):
            t += by * d

    values = []
    for by in (1e-5, -2e-5):
        moved(by)
        values.append(sparse(x).logsumexp(1).sum().item())
    torch.testing.assert_close(torch.tensor((values[0] - values[1]) / 2e-5).double(), slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("wrn28", "resnet110") else name for name in COVERED]
)
def test_ten_training_steps_match_pytorch(name):
    torch.manual_seed(0)
    network = getattr(models, name)(10, width=0.125).double()
    sparsify(network, "erk", 0.8)
    reference, sparse = copy.deepcopy(network), SparseNetwork(network, DOUBLE)
    ours, theirs = (
        torch.optim.SGD(p, 0.01, 0.9, weight_decay=5e-4)
        for p in (sparse.trainable_parameters(), reference.parameters())
    )
    keep_masks(reference, theirs)
    x, y = torch.randn(20, 3, 16, 16, dtype=torch.float64), torch.randint(10, (20,))
    for _ in range(10):
        for run, optimizer in ((sparse, ours), (reference, theirs)):
            optimizer.zero_grad()
            F.cross_entropy(run(x), y).backward()
            optimizer.step()
    sparse.scatter()
    for (name, found), wanted in zip(network.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def test_the_stem_for_large_images_matches_pytorch():
    torch.manual_seed(0)
    network = models.resnet50_imagenet(10, width=0.125).double()
    sparsify(network, "erk", 0.8)
    assert_same(network, torch.randn(17, 3, 64, 64, dtype=torch.float64))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dense_weights_are_freed_until_they_are_scattered(memory_format):
    network = masked(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 4 * 4, 5)), 0.5)
    network = network.to(memory_format=memory_format)
    before, sparse = copy.deepcopy(network.state_dict()), SparseNetwork(network, DOUBLE)
    sparse.release()
    assert all(held.weight.untyped_storage().nbytes() == 8 for held in sparse.layers.values())  # one number
    with pytest.raises(AssertionError, match="call scatter first"):
        sparse.gather()
    sparse(torch.ones(1, 2, 6, 6, dtype=torch.float64)).sum().backward()
    sparse.scatter()
    for (name, found), wanted in zip(network.state_dict().items(), before.values(), strict=True):
        assert torch.equal(found, wanted) and found.stride() == wanted.stride(), name


def test_gradients_of_a_chain_share_one_piece_of_memory():
    """A convolution writes the gradient of its input after the gradient of the step that follows it has been read."""
    layers = [m for n in (1, 2, 2) for m in (nn.Conv2d(n, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    graph = FusedGraph(nn.Sequential(*layers))
    sizes = {node: size for size, node in enumerate((n for n in graph.nodes if not isinstance(n, Convolution)), 1)}
    places, pieces = share_gradients(graph, sizes)
    assert set(places) == set(sizes) and pieces == [4]


def test_gradients_that_are_added_up_have_memory_of_their_own():
    """The gradients of a residual sum and of its operand exist together: those of resnet20 take two pieces."""
    graph = FusedGraph(models.resnet20(10))
    _, pieces = share_gradients(graph, dict.fromkeys(graph.nodes, 1))
    assert pieces == [1, 1]


def convolutions(precision):
    network = models.resnet20(10, width=0.25).to(precision.compute_dtype)
    sparsify(network, "erk", 0.8)
    return network


def linear_layers(precision):
    layers = nn.Flatten(), nn.Linear(3 * 16 * 16, 30), nn.ReLU(), nn.Linear(30, 10)
    return masked(nn.Sequential(*layers), 0.3).to(precision.compute_dtype)


def pools_and_activations(precision):
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 8, 3), nn.SiLU()
    return masked(nn.Sequential(*layers, nn.AvgPool2d(3, 2), nn.Flatten(), nn.Linear(32, 10)), 0.3).to(
        precision.compute_dtype
    )


def sums(precision):
    graph = AnyGraph([("relu", 0, 0), ("sum, relu", 1, 1), ("convolution", 1, 1), ("sum", 2, 3)])
    return masked(nn.Sequential(graph, nn.Flatten(), nn.Linear(128, 10)), 0.3).to(precision.compute_dtype)


def results(precision, threads, build=convolutions, images=70):
    """Return the output and the gradients of a training step, and the output in evaluation."""
    torch.manual_seed(0)
    network = build(precision)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        sparse = SparseNetwork(network, precision)
        x = torch.randn(images, 3, 16, 16, dtype=precision.compute_dtype)
        output = sparse(x)
        F.cross_entropy(output, torch.arange(images) % 10).backward()
        with torch.no_grad():
            evaluated = sparse.eval()(x)
        return [output.detach(), *(p.grad for p in sparse.trainable_parameters()), evaluated]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "build, images", [(convolutions, 70), (linear_layers, 300), (pools_and_activations, 70), (sums, 70)]
)
def test_results_do_not_depend_on_the_number_of_threads(build, images, stored):
    # three or five blocks of images: more and fewer than threads, so parallel over blocks and over channels
    one, *others = [results(Precision(torch.float32, stored), threads, build, images) for threads in (1, 2, 6)]
    assert all(torch.equal(a, b) for other in others for a, b in zip(one, other, strict=True))


def test_bfloat16_approximates_float32():
    exact, near = (results(Precision(torch.float32, s), 1)[0] for s in (torch.float32, torch.bfloat16))
    assert 0 < (exact - near).abs().max() < 0.1 * exact.abs().max()


def test_small_integers_are_exact_in_bfloat16():
    """bfloat16 represents all integers up to 256, and no result here exceeds 27 x 2 x 2."""
    random = torch.Generator().manual_seed(0)
    small = lambda *shape: torch.randint(-2, 3, shape, generator=random).float()
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    layer.weight.data = small(3, 2, 3, 3)
    reference, ours = small(70, 2, 5, 6).requires_grad_(), copy.deepcopy(layer)
    x, direction = reference.detach().clone().requires_grad_(), small(70, 3, 5, 6)
    attach(ours, {"weight": ours.weight != 0})
    sparse = SparseNetwork(ours, Precision(torch.float32, torch.bfloat16))
    outputs = sparse(x), layer(reference)
    for output in outputs:
        output.backward(direction)
    (values,) = sparse.values
    assert torch.equal(*outputs) and torch.equal(x.grad, reference.grad)
    assert torch.equal(values.grad, layer.weight.grad[layer.weight != 0])


def test_nan_propagates_through_relu():
    sparse = SparseNetwork(masked(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), 1.0), DOUBLE)
    x = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    x[1] = torch.nan
    assert sparse(x)[1].isnan().all() and not sparse(x)[::2].isnan().any()


def test_backward_after_another_forward_pass_raises():
    sparse = SparseNetwork(masked(nn.Conv2d(1, 2, 1), 1.0), DOUBLE)
    first = sparse(torch.ones(1, 1, 2, 2, dtype=torch.float64))
    sparse(torch.ones(1, 1, 2, 2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="run again since"):
        first.sum().backward()


def test_to_dense_is_the_inverse_of_masking():
    assert torch.equal(to_dense(torch.tensor([5.0, 7.0]), torch.tensor([[False, True], [True, False]])),
                       torch.tensor([[0.0, 5.0], [7.0, 0.0]]))  # fmt: skip


@pytest.mark.parametrize(
    "layer, message",
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), r"0 \(Conv2d with padding=\(1, 1\), reflect"),
        (nn.Sequential(nn.Flatten(), nn.Dropout2d(0.1)), r"Dropout2d of \[B, features\]"),
        (nn.Upsample(scale_factor=1.5), r"0 \(Upsample of mode nearest, other than"),
        (nn.Upsample(scale_factor=2, mode="bilinear"), r"0 \(Upsample of mode bilinear, other than"),
        (nn.Softplus(), r"0 \(Softplus\)"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), r"0.1 \(MaxPool2d after padding\)"),
        (nn.MaxPool2d(3, 2, dilation=2), r"0 \(MaxPool2d with dilation"),
        (nn.AvgPool2d(3, divisor_override=2), r"0 \(AvgPool2d with divisor_override"),
        (nn.AdaptiveAvgPool2d((None, 1)), r"0 \(AdaptiveAvgPool2d to \(None, 1\)"),
    ],
)
def test_not_covered_names_the_module(layer, message):
    with pytest.raises(NotCovered, match=message):
        FusedGraph(nn.Sequential(layer))


def test_library_without_a_compiler_raises(monkeypatch):
    compiling.library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(compiling.KernelsUnavailable, match=r"there is no C\+\+ compiler \(no-such-compiler\)"):
        compiling.library("double", "double")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="for x86")
def test_kernels_for_avx2_match_pytorch(monkeypatch, tmp_path):
    monkeypatch.setattr(compiling, "TARGET_FLAGS", (("-march=x86-64-v3", "-fopenmp"),))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiling.library.cache_clear()
    try:
        test_convolutions_match_pytorch()
        test_ten_training_steps_match_pytorch("resnet20")
        test_bfloat16_approximates_float32()
        test_networks_of_any_graph_match_pytorch()
        test_operations_between_convolutions_match_pytorch(OPERATIONS["max 2"], 11)
        for build in (convolutions, sums):
            test_results_do_not_depend_on_the_number_of_threads(build, 70, torch.bfloat16)
        for activation in ACTIVATIONS:
            test_activations_match_pytorch(activation)
    finally:
        compiling.library.cache_clear()


SANITIZED = """
from ersparse.kernels import compile as compiling
compiling.TARGET_FLAGS = (("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),)
import test_network
for name in ("vgg16", "resnet20", "resnet50"):
    test_network.test_ten_training_steps_match_pytorch(name)
test_network.test_convolutions_match_pytorch()
for operations in test_network.OPERATIONS.values():
    test_network.test_operations_between_convolutions_match_pytorch(operations, 11)
for build in (test_network.DenseBlock, test_network.Gates, lambda: test_network.SqueezeExcitation(True)):
    test_network.test_products_and_concatenations_match_pytorch(build)
test_network.test_networks_of_any_graph_match_pytorch()
test_network.test_dropout_draws_the_numbers_of_pytorch()
test_network.test_signals_match_pytorch()
print("clean")
"""


@pytest.mark.slow
def test_address_and_undefined_behaviour_sanitizers_report_nothing(tmp_path):
    asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(asan):
        pytest.skip("there is no libasan")
    environment = os.environ | {
        "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/kernels'}",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", SANITIZED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("clean\n"), done.stderr[-4000:]
