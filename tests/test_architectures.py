"""Twenty networks of torchvision, timm and PyTorch's layers: densities, degrees, training, copies, compilation."""

import copy
import math
import warnings

import pytest
import torch
from conftest import ROOT

import ersparse
from benchmarks.networks import NETWORKS, example, summarise, table
from ersparse.errors import UserError
from ersparse.sparse.degrees import zero_degrees
from ersparse.sparse.layers import prunable_layers

DEVIATIONS = 6  # of a sum of independent draws: odds below 10^-6 for all comparisons of this file together
QUICK = ["U-Net", "LSTM language model"]
REFUSED = "timm resnetv2_50x1_bit"  # weight standardisation
EVERY = [name for name in NETWORKS if name != REFUSED]
SPARSE = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]


def built(name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return NETWORKS[name]()


def sparse(network, name, density="uniform", level=0.9):
    flow = "move" if summarise(network, name).flow == "followed" else "none"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "not pruned|nominal sparsity")
        return ersparse.sparsify(network, density, level, flow=flow)


@pytest.mark.parametrize("name", SPARSE)
def test_densities_and_degrees(name):
    network = built(name)
    followed, layers = summarise(network, name).flow == "followed", prunable_layers(network)
    for level in (0.9, 0.99):
        for density in ("uniform", "erk", "balanced"):
            masks, record = sparse(copy.deepcopy(network), name, density, level)
            rows = record["layers"]
            expected = sum(row["size"] * row["density"] for row in rows)
            assert expected == pytest.approx((1 - level) * sum(row["size"] for row in rows))
            deviation = math.sqrt(sum(row["size"] * row["density"] * (1 - row["density"]) for row in rows))
            assert abs(sum(row["drawn"] for row in rows) - expected) <= DEVIATIONS * deviation
            for row in rows:
                added = sum(row["edges_added"].values())
                assert row["nonzero"] == row["drawn"] + added == int(masks[row["name"]].sum())
            assert not followed or all(zero_degrees(masks[layer.name], layer) == (0, 0) for layer in layers)


@pytest.mark.parametrize("name", SPARSE)
def test_zeros_stay_in_training_copies_and_state_dicts(name):
    network, x = built(name), example(name)
    masks, _ = sparse(network, name)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
    ersparse.keep_masks(network, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
    copied, other = copy.deepcopy(network).eval(), built(name)
    sparse(other, name, "erk", 0.8)
    other.load_state_dict(network.state_dict())
    for same in (network, copied, other):
        assert all(same.get_parameter(key).detach()[~mask].eq(0).all() for key, mask in masks.items())
    with torch.no_grad():
        expected = network.eval()(x)
        assert copied(x).equal(expected) and other.eval()(x).equal(expected)


def test_weight_standardisation_is_refused():
    with pytest.raises(UserError, match=r"^module=ResNetV2: stem\.conv\.weight is transformed by .* StdConv2d,"):
        ersparse.sparsify(built(REFUSED), flow="none")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["U-Net", "torchvision ConvNeXt"])
def test_a_compiled_network_computes_the_same(name):
    network, x = built(name), example(name)
    sparse(network, name)
    with torch.no_grad():
        expected = network.eval()(x)
        assert torch.allclose(torch.compile(network, backend="aot_eager")(x), expected, atol=1e-5)


def ready(name):
    """A sparse network in evaluation mode whose logits are not zero, an input, and its logits."""
    network, x = built(name), example(name)
    sparse(network, name)
    for parameter in network.parameters():
        if parameter.dim() == 1:  # some are zero at the start, such as scales of branches
            torch.nn.init.uniform_(parameter, 0.5, 1.0)
    with torch.no_grad():
        return network.eval(), x, network(x)


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", EVERY)
def test_every_network_is_compiled(name, backend):
    if backend == "inductor" and name not in (*QUICK, "torchvision ConvNeXt", "ViT with nn.MultiheadAttention"):
        pytest.skip("generating code takes minutes")
    network, x, expected = ready(name)
    torch.compiler.reset()
    with torch.no_grad():
        assert torch.allclose(torch.compile(network, backend=backend)(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.by_hand
@pytest.mark.parametrize("name", EVERY)
def test_every_network_is_exported_as_onnx(name):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network, x, expected = ready(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (x,), dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("n")},)
        )
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert expected.any() and torch.allclose(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_table_of_the_documentation_is_generated():
    pytest.importorskip("timm")
    assert table() in (ROOT / "docs" / "networks.md").read_text()
