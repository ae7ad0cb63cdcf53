"""Exported networks: predictions, file size, file format, and errors."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, need_kernels, read
from damage import flip_a_bit, truncate
from safetensors.numpy import load_file, save_file
from torch import nn

import ersparse
from ersparse import models, sparsify
from ersparse.cli import export
from ersparse.errors import UserError
from ersparse.export import benchmark, sparse_file
from ersparse.export.folded import fold
from ersparse.kernels import compile as compiling
from ersparse.kernels.nodes import NotCovered


def trained(name="resnet20", density="erk", level=0.9, **options):
    """Return a masked network with random BatchNorm statistics and parameters, as after training."""
    torch.manual_seed(0)
    network = getattr(models, name)(10, **options)
    sparsify(network, density, level)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def input_spec(side=32):
    return sparse_file.InputSpec(3, side, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])


@pytest.fixture(params=["kernels", "no compiler"])
def compiler(request, monkeypatch):
    if request.param == "no compiler":
        compiling.library.cache_clear()
        monkeypatch.setenv("CXX", "no-such-compiler")
        return
    need_kernels("float", "float")  # before the test, which counts log records: a cold cache adds one


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "resnet20"])
def test_predictions_match_the_trained_network(tmp_path, name, compiler, caplog):
    network = trained(name, width=0.25)
    sparse_file.write(tmp_path / "network.sparse", fold(network), input_spec(16))
    predict = ersparse.load_sparse(tmp_path / "network.sparse")
    assert len(caplog.records) == ("no-such-compiler" in caplog.text)
    for count in (1, 17, 520):
        pixels = torch.randint(0, 256, (count, 16, 16, 3), dtype=torch.uint8)
        x = (pixels / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.2, 0.3, 0.4])
        with torch.no_grad():
            wanted = network(x.permute(0, 3, 1, 2).contiguous())
        for given in (pixels, pixels.numpy(), x.permute(0, 3, 1, 2)):
            torch.testing.assert_close(predict(given), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def test_dilated_layers_relu6_and_dropout_are_predicted(tmp_path):
    """For one image and for a block of images; outputs of both ReLU6 reach 6."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding="same", dilation=(1, 2)), nn.ReLU6(), nn.Dropout(), nn.AvgPool2d(2), nn.Dropout2d(),
        nn.Flatten(), nn.Linear(8 * 2 * 2, 5),
    ).eval()  # fmt: skip
    network[1].weight.data.fill_(20.0)
    network[4].weight.data.mul_(20)
    sparsify(network, "uniform", 0.5)
    sparse_file.write(tmp_path / "network.sparse", fold(network), input_spec(8))
    predict, x = ersparse.load_sparse(tmp_path / "network.sparse"), torch.randn(17, 3, 8, 8)
    wanted, middle = network(x), network[:6](x)
    assert (middle == 6).any() and (network[:3](x) == 6).any()
    for count in (1, 17):
        torch.testing.assert_close(predict(x[:count]), wanted[:count].detach(), rtol=1e-4, atol=1e-4)


def test_bfloat16_storage_rounds_activations_of_large_batches_only(tmp_path):
    """257 is no number of bfloat16; of its neighbours 256 and 258 the first has an even last bit."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1)).eval()
    network[0].weight.data.fill_(257.0), network[0].bias.data.zero_()
    network[2].weight.data.fill_(1.0), network[2].bias.data.zero_()
    sparsify(network, "uniform", 0.0)
    sparse_file.write(tmp_path / "network.sparse", fold(network), sparse_file.InputSpec(1, 1, [0.0], [1.0]))
    predict = ersparse.load_sparse(tmp_path / "network.sparse", storage="bfloat16")
    for count, value in ((1, 257.0), (16, 257.0), (17, 256.0)):
        assert predict(torch.ones(count, 1, 1, 1)).flatten().tolist() == [value] * count
    with pytest.raises(ersparse.UserError, match="storage='float16': must be one of float32, bfloat16"):
        ersparse.load_sparse(tmp_path / "network.sparse", storage="float16")


def assert_predicts(network, side, tmp_path, counts=(1, 17)):
    """Compare predictions from the network's file with the network, for one image and for blocks of images."""
    network = sparsify_all(network.eval())
    sparse_file.write(tmp_path / "network.sparse", fold(network), input_spec(side))
    predict, x = ersparse.load_sparse(tmp_path / "network.sparse"), torch.randn(max(counts), 3, side, side)
    wanted = network(x).detach()
    for count in counts:
        torch.testing.assert_close(predict(x[:count]), wanted[:count], rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


def sparsify_all(network):
    """Attach masks of density 0.5 to all layers, whichever the flow repair can follow."""
    sparsify(network, "uniform", 0.5, flow="none")
    return network


def test_strides_and_paddings_that_differ_between_axes_are_predicted(tmp_path):
    assert_predicts(
        nn.Sequential(
            nn.Conv2d(3, 8, (1, 7), (2, 1), (0, 3)), nn.ReLU(), nn.Conv2d(8, 8, (2, 4), padding="same"), nn.ReLU(),
            nn.Conv2d(8, 8, 3, (1, 3), 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 5 * 3, 5),
        ), 9, tmp_path,
    )  # fmt: skip


def test_overlapping_pools_and_activations_are_predicted(tmp_path):
    assert_predicts(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.3), nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.Conv2d(8, 8, 1), nn.GELU(), nn.Dropout(), nn.Upsample(scale_factor=2),
            nn.AdaptiveMaxPool2d((3, 2)), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Flatten(), nn.Linear(48, 20), nn.Hardswish(), nn.Linear(20, 5), nn.Sigmoid(),
        ), 18, tmp_path,
    )  # fmt: skip


def test_normalisation_over_devices_is_predicted(tmp_path):
    network = trained(width=0.25)
    wanted = network(x := torch.randn(3, 3, 16, 16))
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    sparse_file.write(tmp_path / "network.sparse", fold(synchronised), input_spec(16))
    found = ersparse.load_sparse(tmp_path / "network.sparse")(x)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("linear", [True, False])
def test_products_and_concatenations_are_predicted(tmp_path, linear):
    class Network(nn.Module):
        """Squeeze-excitation by linear layers or convolutions, and concatenations."""

        def __init__(self):
            super().__init__()
            layer = nn.Linear if linear else lambda *channels: nn.Conv2d(*channels, 1)
            self.first, self.scale, self.last = nn.Conv2d(3, 6, 3), layer(6, 6), nn.Linear(15, 5)

        def forward(self, x):
            y = self.first(x)
            scale = y.mean((2, 3), keepdim=not linear)
            scale = torch.sigmoid(self.scale(scale))
            y = (scale.view(x.size(0), 6, 1, 1) if linear else scale) * y
            y = torch.cat([y, y * y, nn.functional.avg_pool2d(x, 3, 1)], 1)
            return self.last(nn.functional.adaptive_max_pool2d(torch.tanh(y), 1).flatten(1))

    assert_predicts(Network(), 7, tmp_path)


def test_file_of_a_network_computed_by_hand(tmp_path):
    """A 1x1 convolution of two channels with one kept weight, and a normalisation y = 2x - 1."""
    network = nn.Sequential(nn.Conv2d(2, 1, 1), nn.BatchNorm2d(1, eps=0), nn.ReLU()).eval()
    sparsify(network, {"0.weight": 0.5}, flow="none", sampling="exact")
    network[0].weight_mask.copy_(torch.tensor([False, True]).view(1, 2, 1, 1))
    network[0].weight.data.copy_(torch.tensor([0.0, 3.0]).view(1, 2, 1, 1))
    network[0].bias.data.fill_(5.0)
    network[1].weight.data.fill_(2.0)
    network[1].running_mean.fill_(0.5)
    network[1].running_var.fill_(1.0)
    path = tmp_path / "network.sparse"
    sparse_file.write(path, fold(network), sparse_file.InputSpec(2, 1, [0.0, 0.0], [1.0, 1.0]))
    found = {name: (value.dtype.name, value.tolist()) for name, value in load_file(path).items()}
    assert found == {
        "1.rows": ("uint32", [0, 1]), "1.columns": ("uint16", [1]), "1.values": ("float32", [6.0]),
        "1.bias": ("float32", [9.0]),
    }  # fmt: skip
    x = torch.tensor([[7.0, 1.0], [7.0, -2.0]]).view(2, 2, 1, 1)
    assert ersparse.load_sparse(path)(x).flatten().tolist() == [15.0, 0.0]


@pytest.mark.parametrize("name, level, most", [("vgg16", 0.99, 0.02), ("resnet20", 0.99, 0.04)])
def test_file_is_a_fraction_of_the_dense_size(tmp_path, name, level, most):
    network = fold(trained(name, "uniform", level))
    sparse_file.write(tmp_path / "network.sparse", network, input_spec())
    assert (tmp_path / "network.sparse").stat().st_size < most * export.dense_size(network)


def with_metadata(path, **changes):
    with sparse_file.safe_open(path, "numpy") as opened:
        metadata = opened.metadata() | changes
    save_file(load_file(path), path, metadata)


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, "network.sparse: damaged ("),
        (flip_a_bit, "network.sparse: damaged (checksum mismatch); export the run again"),
        (lambda path: with_metadata(path, network="{}"), "network.sparse: damaged (checksum mismatch)"),
        (lambda path: with_metadata(path, version="2"), "network.sparse: version 2, must be 1; export the run again"),
        (lambda path: save_file({"a": np.zeros(1)}, path), "network.sparse: is not a sparse network; must be a file"),
        (lambda path: path.write_text("hello"), "network.sparse: damaged ("),
        (lambda path: path.unlink() or path.mkdir(), "network.sparse: is a folder; must be a file"),
        (lambda path: path.unlink(), "network.sparse: cannot be read (No such file"),
    ],
)
def test_damaged_and_foreign_files_raise(tmp_path, damage, message):
    path = tmp_path / "network.sparse"
    sparse_file.write(path, fold(trained(width=0.25)), input_spec())
    damage(path)
    with pytest.raises(UserError) as error:
        ersparse.load_sparse(path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_images_of_another_shape_or_type_raise(tmp_path):
    sparse_file.write(tmp_path / "network.sparse", fold(trained(width=0.25)), input_spec())
    predict = ersparse.load_sparse(tmp_path / "network.sparse")
    for wrong in (torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, 32, 32)):
        with pytest.raises(UserError, match=r"must be uint8 \[N, 32, 32, 3\] or float \[N, 3, 32, 32\]"):
            predict(wrong)
    with pytest.raises(UserError, match="must contain at least one image"):
        predict(torch.zeros(0, 3, 32, 32))


def test_fold_raises_for_a_norm_that_follows_no_convolution():
    with pytest.raises(NotCovered, match="a BatchNorm2d that follows no convolution"):
        fold(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1)).eval())


def test_export_of_unfinished_runs_raises(launch, only_run):
    launch("method=draw")
    with pytest.raises(UserError, match="has no network, it was only drawn; must be the folder of a run that trained"):
        export.main([str(only_run())])
    (only_run() / "run.json").write_text(json.dumps(read(only_run()) | {"state": "preempted"}))
    with pytest.raises(UserError, match="must be the folder of a finished run"):
        export.main([str(only_run())])


def test_benchmark_reports_compilation_failures(monkeypatch):
    def fails(x):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(benchmark, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(torch, "compile", lambda network: fails)
    table = benchmark.benchmark_table(fold(trained(width=0.125)), input_spec(16), size=1000, dense_size=4000)
    names, latency, batch, throughput, megabytes = (list(column.cells) for column in table.columns)
    assert names[:2] == ["sparse", "sparse, bfloat16 storage"] and len(names) == 6
    compiled = [name.endswith("compiled") for name in names]
    assert [found == "RuntimeError" for found in latency] == compiled == [not found for found in throughput]
    assert megabytes == ["0.001", "0.001", "0.004", "", "0.002", ""]
    for ms, per_second in zip(batch, throughput, strict=True):
        assert not ms or float(ms) * float(per_second.replace(",", "")) == pytest.approx(128e3, rel=0.2)


def test_onnx_predictions_match(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = fold(trained(width=0.25))
    export.write_onnx(tmp_path / "network.onnx", network, input_spec())
    session = runtime.InferenceSession(tmp_path / "network.onnx")
    for count in (1, 5):
        x = torch.randn(count, 3, 32, 32)
        (found,) = session.run(["logits"], {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_onnx_of_a_network_without_kernels(launch, only_run):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert launch(*TINY, "model=vit_tiny", "model.patch=8")[0] == 0
    with pytest.raises(UserError, match="no sparse kernel for .*; --format onnx needs none"):
        export.main([str(only_run())])
    assert export.main([str(only_run()), "--format", "onnx"]) == 0
    images, session = torch.randn(3, 1, 16, 16), runtime.InferenceSession(only_run() / "network.onnx")
    (found,) = session.run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), ersparse.load(only_run())(images), rtol=1e-4, atol=1e-4)


def test_onnx_export_without_its_packages_raises(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--format onnx: onnx is not installed; pip install onnx onnxscript"):
        export.write_onnx(tmp_path / "network.onnx", fold(trained(width=0.25)), input_spec())
