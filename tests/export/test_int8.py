"""Prediction in 8 bits: against a slow reference in exact arithmetic, and what it costs a trained network."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import TINY, need_kernels
from torch import nn
from torch.nn import functional as F

import ersparse
from ersparse import models, sparsify
from ersparse.cli import export
from ersparse.export import sparse_file
from ersparse.export.folded import fold
from ersparse.export.int8 import Int8Network
from ersparse.export.ranges import Range, observe
from ersparse.kernels import compile as compiling
from ersparse.kernels.nodes import NotCovered
from ersparse.sparse.layers import prunable_weights
from ersparse.sparse.mask import attach

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def kernels():
    need_kernels("float", "float")


def to_bytes(x, target):
    return (x / target.scale + target.zero).round().clamp(0, 255)


def to_numbers(q, source):
    return (q - source.zero) * source.scale


def reference(network, ranges, x):
    """Compute a folded network in float64, rounding as the documentation says: every tensor after its last sum.

    It follows the steps by PyTorch's layers. A clamping activation is computed exactly before the rounding.
    """
    network = exact_weights(network)
    results = [to_numbers(to_bytes(x.double(), ranges[0][0]), ranges[0][0])]
    for number, (step, layer, stages) in enumerate(zip(network.steps, network.layers, ranges[1:], strict=True)):
        y = step.combine(layer(results[step.source]), results)
        stages = list(stages)
        parts = [part for part in (step.activation, step.pool) if part]
        if step.activation and step.activation.clamps:
            y = parts.pop(0).build()(y)
            stages.pop(0)
        is_sum = step.layer or step.residual is not None or step.more or step.factor is not None
        if number == len(network.steps) - 1 and step.layer and not parts and len(ranges[-1]) == 1:
            return y.flatten(1)
        target = stages[0]
        if is_sum or not parts or (step.activation and step.activation.clamps):
            y = to_numbers(to_bytes(y, target), target)
        for part, limits in zip(parts, stages[1:], strict=True):
            y = part.build().double()(y)
            if getattr(part, "kind", "") != "max":  # maxima are bytes already
                y = to_numbers(to_bytes(y, limits), limits)
        results.append(y)
    return results[-1].flatten(1)


def exact_weights(network):
    """Round the weights of each output channel to multiples of a 127th of the largest, in float64."""
    network = network.double()
    for held in prunable_weights(network).values():
        scale = held.weight.flatten(1).abs().amax(1).view(-1, *[1] * (held.weight.dim() - 1)) / 127
        held.weight.data = torch.where(scale > 0, (held.weight / scale).round() * scale, held.weight)
    return network


class Everything(nn.Module):
    """All that 8-bit prediction computes: strides, groups, dilation, sums, products, functions and pools.

    With `strided_sum`, a tensor is added to a strided convolution, which is computed for 64 images side by side only.
    """

    def __init__(self, last=True, strided_sum=False):
        super().__init__()
        self.strided_sum = strided_sum
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.third, self.shortcut = nn.Conv2d(12, 20, 3, (2, 1), 1), nn.Conv2d(12, 20, 1, (2, 1))
        self.gate, self.wide = nn.Linear(20, 20), nn.Conv2d(20, 20, 3, padding="same", dilation=2)
        self.last = nn.Linear(40 * 4, 10) if last else None

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.relu6(self.second(x) + x)
        shortcut = self.shortcut(x)
        x = self.third(F.avg_pool2d(x, 3, 1, 1))
        x = F.relu(x + shortcut if self.strided_sum else x)
        x = x if self.strided_sum else F.max_pool2d(x + self.wide(x), 3, 1, 1)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3)))).view(x.size(0), 20, 1, 1)
        x = torch.cat([F.silu(self.wide(x)), F.max_pool2d(x, 3, 1, 1)], 1)
        x = F.adaptive_avg_pool2d(x, (2, 2))
        return self.last(x.flatten(1)) if self.last else x


def masked(network, level=0.5):
    torch.manual_seed(0)
    sparsify(network.eval(), "uniform", level, flow="none")
    return fold(network)


NETWORKS = {
    "everything": (Everything, 13),
    "averages at the end": (lambda: Everything(last=False), 12),
    "a strided sum": (lambda: Everything(strided_sum=True), 13),
    "stride and padding that keep the size": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1, 2, 2), nn.Conv2d(8, 10, 4)), 4),
    "a wide border": (lambda: nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.Conv2d(8, 10, (5, 1))), 16),
    "vgg16": (lambda: models.vgg16(10, width=0.125), 32),
    "resnet20": (lambda: models.resnet20(10, width=0.5), 16),
    "linear layers": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 30), nn.ReLU(), nn.Linear(30, 10)), 5),
    "a convolution": (lambda: nn.Sequential(nn.Conv2d(3, 10, 3, 2)), 9),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_match_a_slow_reference(name):
    """Up to numbers that lie between two bytes, which float32 and float64 may round to different ones."""
    torch.manual_seed(0)
    build, side = NETWORKS[name]
    network = masked(build())
    x = torch.randn(100, 3, side, side)
    ranges = observe(network, x[:50])
    predict = Int8Network(network, 3, side, ranges)
    assert set(predict.layouts) == ({64} if name == "a strided sum" else {1, 16, 64})
    found = predict(x)
    for count in (1, 3, 5, 16, 17, 48, 49, 64):  # in each layout, with full blocks and others
        assert torch.equal(predict(x[:count]), found[:count])
    wanted = reference(network, ranges, x).float()
    assert found.shape == wanted.shape
    error = (found - wanted).abs() / (wanted.max() - wanted.min())
    assert (error > 1e-6).any(1).float().mean() < 0.1 and error.max() < 0.02  # of images; few have such a number
    exact = network.float()(x).flatten(1)
    assert 1e-6 < (found - exact).norm() / exact.norm() < 0.1


def test_layers_computed_by_hand():
    """Weights 127 and -3 of largest 127, an input of scale 0.5 and zero 2, a hidden layer of scale 2 that saturates."""
    network = nn.Sequential(nn.Conv2d(2, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)).eval()
    network[0].weight.data.copy_(torch.tensor([127.0, -3.0]).view(1, 2, 1, 1))
    network[0].bias.data.fill_(1.0)
    network[2].weight.data.fill_(10.0), network[2].bias.data.fill_(-5.0)
    sparsify(network, "uniform", 0.0)
    ranges = [[Range(-1.0, 126.5)], [Range(-9.0, 501.0), Range(0.0, 510.0)], [Range(-5.0, 5.0)]]
    assert (ranges[0][0].scale, ranges[0][0].zero, ranges[1][1].scale, ranges[1][1].zero) == (0.5, 2, 2.0, 0)
    x = torch.tensor([[1.0, 0.0], [0.2, 0.0], [-1.0, 2.0], [100.0, 0.0], [1.0, 126.5], [1.0, 500.0]]).view(6, 2, 1, 1)
    # 128; 0.2 is rounded to 0; -132 becomes 0; 12701 becomes 510; 128 - 379.5 becomes 0; 500 becomes 126.5
    hidden = torch.tensor([128.0, 0.0, 0.0, 510.0, 0.0, 0.0])  # 1 is half a step of 2, and rounded to the even byte 0
    found = Int8Network(fold(network), 2, 1, ranges)(x)
    assert found.flatten().tolist() == (10 * hidden - 5).tolist()


def test_ranges_contain_zero_and_all_stages():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU6(), nn.AvgPool2d(2), nn.Conv2d(1, 1, 1), nn.Tanh()).eval()
    network[0].weight.data.fill_(1.0), network[0].bias.data.fill_(-1.0)
    network[3].weight.data.fill_(-1.0), network[3].bias.data.fill_(-1.0)
    sparsify(network, "uniform", 0.0)
    x = torch.tensor([5.0, 9.0, 2.0, 3.0]).view(1, 1, 2, 2).repeat(200, 1, 1, 1)
    first, second, third = observe(fold(network), x)
    assert first == [Range(0.0, 9.0)]
    assert second == [Range(0.0, 8.0), Range(0.0, 6.0), Range(0.0, 3.25)]
    assert third[0] == Range(-4.25, 0.0) and third[1] == (pytest.approx(-0.999593, abs=1e-6), 0.0)


def test_results_depend_neither_on_threads_nor_on_the_batch():
    network = masked(Everything())
    x = torch.randn(400, 3, 13, 13)
    predict, threads = Int8Network(network, 3, 13, observe(network, x[:20])), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        wanted = predict(x)
        for threads_now in (1, 2, 3, 5):  # five take blocks of their own, if there are as many
            torch.set_num_threads(threads_now)
            for part in (
                slice(200),
                slice(400),
                slice(70),
                slice(150, 200),
                slice(32),
                slice(10, 20),
                slice(2),
                slice(7, 8),
            ):
                assert torch.equal(predict(x[part]), wanted[part])
    finally:
        torch.set_num_threads(threads)


def test_an_activation_that_is_zero_on_all_samples():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2)).eval()
    network[0].weight.data.zero_(), network[0].bias.data.fill_(-1.0)
    sparsify(network, "uniform", 0.0)
    x, folded = torch.randn(70, 1, 3, 3), fold(network)
    torch.testing.assert_close(Int8Network(folded, 1, 3, observe(folded, x))(x), network(x).detach())


def test_numbers_far_beyond_the_range_become_its_limit():
    """The range of a layer that was nearly zero on all samples: 1 is 2.5e10 steps, more than 32 bits hold."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)).eval()
    for layer in (network[0], network[2]):
        layer.weight.data.fill_(1.0), layer.bias.data.zero_()
    sparsify(network, "uniform", 0.0)
    ranges = [[Range(0.0, 1.0)], [Range(0.0, 1e-8), Range(0.0, 1e-8)], [Range(0.0, 1e-8)]]
    found = Int8Network(fold(network), 1, 1, ranges)(torch.tensor([0.01, 0.05, 0.5, 1.0]).view(4, 1, 1, 1))
    torch.testing.assert_close(found.flatten(), torch.full((4,), 1e-8))


@pytest.mark.parametrize(
    "build, ranges, message",
    [
        (lambda: nn.Linear(70_000, 1), 2, "1.weight in 8 bits, whose sums exceed 32 bits"),
        (lambda: nn.Linear(40_000_000, 1), 2, "1.weight in 8 bits, whose source is too large for 32-bit offsets"),
    ],
)
def test_layers_that_are_too_large_raise(build, ranges, message):
    layer = build()
    layer.weight.data.zero_()
    layer.weight.data[0, -1 if "offsets" in message else slice(None)] = 1.0
    network = nn.Sequential(nn.Flatten(), layer).eval()
    attach(network, {"1.weight": layer.weight != 0})
    with pytest.raises(NotCovered, match=message):
        Int8Network(fold(network), layer.in_features, 1, [[Range(0.0, 1.0)]] * ranges)


def test_numbers_that_are_not_finite(tmp_path):
    network, inputs = masked(models.resnet20(10, width=0.25)), sparse_file.InputSpec(3, 16, [0.5] * 3, [0.2] * 3)
    sparse_file.write(tmp_path / "network.sparse", network, inputs)
    x = torch.randn(70, 3, 16, 16)
    predict = ersparse.load_sparse(tmp_path / "network.sparse", "int8", calibration=x)
    wanted = predict(x)
    x[3, 0, 0, 0], x[69, 1, 2, 3] = torch.nan, torch.inf
    with pytest.raises(ersparse.UserError, match="^calibration images: has NaN or infinite numbers; must be finite"):
        ersparse.load_sparse(tmp_path / "network.sparse", "int8", calibration=x)
    found = predict(x)
    assert found.isnan().all(1).nonzero().flatten().tolist() == [3, 69]
    assert torch.equal(found[4:69], wanted[4:69])
    network.layers[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ersparse.UserError, match="^step 1 of the network, on the calibration images, has NaN"):
        observe(network, x[:3])


def test_calls_from_two_threads(tmp_path):
    network, inputs = masked(models.resnet20(10, width=0.25)), sparse_file.InputSpec(3, 16, [0.5] * 3, [0.2] * 3)
    sparse_file.write(tmp_path / "network.sparse", network, inputs)
    batches = [torch.randn(64, 3, 16, 16) for _ in range(20)]
    for storage in ("float32", "int8"):
        calibration = batches[0] if storage == "int8" else None
        predict = ersparse.load_sparse(tmp_path / "network.sparse", storage, calibration)
        wanted = [predict(x) for x in batches]
        with ThreadPoolExecutor(2) as pool:
            assert all(map(torch.equal, pool.map(predict, batches), wanted))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="for x86")
def test_processors_without_vnni_compute_the_same(monkeypatch, tmp_path):
    network = masked(Everything())
    x = torch.randn(70, 3, 13, 13)
    ranges = observe(network, x)
    wanted = Int8Network(network, 3, 13, ranges)(x)
    monkeypatch.setattr(compiling, "TARGET_FLAGS", (("-march=x86-64-v3", "-fopenmp"),))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiling.int8_library.cache_clear()
    try:
        portable = Int8Network(network, 3, 13, ranges)
        assert not portable.is_fast and torch.equal(portable(x), wanted)
    finally:
        compiling.int8_library.cache_clear()


SANITIZED = """
from ersparse.kernels import compile as compiling
compiling.TARGET_FLAGS = (("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *FLAGS),)
import test_int8
for name in test_int8.NETWORKS:
    test_int8.test_predictions_match_a_slow_reference(name)
print("clean")
"""


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["-march=native"]], ids=["portable", "native"])
def test_address_and_undefined_behaviour_sanitizers_report_nothing(tmp_path, flags):
    asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(asan):
        pytest.skip("there is no libasan")
    environment = os.environ | {
        "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "XDG_CACHE_HOME": str(tmp_path),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/export'}",
    }  # fmt: skip
    command = [sys.executable, "-c", f"FLAGS = {flags}\n{SANITIZED}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("clean\n"), done.stderr[-4000:]


def test_files_with_and_without_ranges(tmp_path):
    network, inputs = masked(models.resnet20(10, width=0.25)), sparse_file.InputSpec(3, 16, [0.5] * 3, [0.2] * 3)
    pixels = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8)
    ranges = observe(network, inputs.normalize(pixels))
    plain, measured = tmp_path / "plain.sparse", tmp_path / "measured.sparse"
    sparse_file.write(plain, network, inputs), sparse_file.write(measured, network, inputs, ranges)
    assert sparse_file.read(measured).ranges == ranges and sparse_file.read(plain).ranges is None
    with pytest.raises(ersparse.UserError, match=r"plain.sparse holds no ranges of activations; write it with"):
        ersparse.load_sparse(plain, "int8")
    predict, exact = ersparse.load_sparse(measured, "int8"), ersparse.load_sparse(plain)
    assert torch.equal(ersparse.load_sparse(plain, "int8", calibration=pixels)(pixels), predict(pixels))
    with pytest.raises(ersparse.UserError, match=r"^calibration=torch.uint8 \[40, 8, 16, 3\]: must be uint8"):
        ersparse.load_sparse(plain, "int8", calibration=pixels[:, :8])
    with pytest.raises(ersparse.UserError, match="^calibration with storage='float32': must be None, or storage="):
        ersparse.load_sparse(plain, calibration=pixels)
    difference = (predict(pixels) - exact(pixels)).norm() / exact(pixels).norm()
    assert 0 < difference < 0.05
    for count in (1, 5, 17):
        assert torch.equal(predict(pixels[:count]), predict(pixels)[:count])


def test_export_measures_ranges_and_says_what_they_cost(launch, only_run, capsys, monkeypatch):
    assert launch(*TINY, "method=fixed")[0] == 0
    run = only_run()
    assert export.main([str(run), "--int8"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    accuracies = [float(word) for word in last.split() if word.startswith("0.") or word.startswith("1.")]
    images = ersparse.load_images(run)
    right = ersparse.load_sparse(run / "network.sparse", "int8")(images.x_test).argmax(1) == images.y_test
    assert last.startswith("test accuracy ") and accuracies[1] == pytest.approx(right.float().mean().item(), abs=1e-4)
    assert abs(accuracies[0] - accuracies[1]) < 0.1
    with pytest.raises(ersparse.UserError, match="--int8: ranges of activations are written with --format sparse"):
        export.main([str(run), "--int8", "--format", "onnx"])
    monkeypatch.setattr(export, "sparse_forward", fails(compiling.KernelsUnavailable("there is no C++ compiler")))
    assert export.main([str(run), "--int8", "--out", str(run / "x.sparse")]) == 0
    assert capsys.readouterr().out.endswith("what 8 bits cost is not measured: there is no C++ compiler\n")
    monkeypatch.setattr(export, "sparse_forward", fails(NotCovered("a.weight in 8 bits, whose sums exceed 32 bits")))
    with pytest.raises(ersparse.UserError, match="^--int8: a.weight in 8 bits, whose sums exceed 32 bits"):
        export.main([str(run), "--int8", "--out", str(run / "y.sparse")])
    assert (run / "x.sparse").exists() and not (run / "y.sparse").exists()


def fails(error):
    def call(*arguments):
        raise error

    return call
