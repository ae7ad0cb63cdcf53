"""Cost estimates of a dry run."""

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch.utils.flop_counter import FlopCounterMode

from ersparse.config.options import CONF, options_of
from ersparse.runs.network import spec_of
from ersparse.sparse.layers import prunable_weights
from ersparse.sweep.build_jobs import build_jobs
from ersparse.sweep.compose import Composer
from ersparse.sweep.cost import Cost, estimate_cost, format_cost, operations, seconds_per_epoch, timing_key, total_cost


@pytest.fixture
def job():
    def make(*words):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            (made,) = build_jobs([list(words)], Composer(GlobalHydra.instance().config_loader()))
        return made

    return make


def test_operations_of_a_layer_agree_with_a_calculation_by_hand(job):
    """Two per multiplication; the gradients of weights and inputs take as many each, the images have no gradient."""
    counted = operations(job("model=resnet20").settings)
    first = 2 * 16 * 16 * (1 * 9) * 16  # 16x16 pixels, one channel in, 16 out
    second = 2 * 16 * 16 * (16 * 9) * 16
    assert counted["conv1.weight"] == (first, 2 * first)
    assert list(counted.values())[1] == (second, 3 * second)
    last = 2 * 64 * 10
    assert list(counted.values())[-1] == (last, 3 * last)


aten = torch.ops.aten
LAYERS = (aten.convolution, aten.convolution_backward, aten.mm, aten.addmm)  # attention's products are no layers
OF_LIBRARIES = {"torchvision": "squeezenet1_1", "timm": "test_resnet"}  # the counter overcounts grouped convolutions


@pytest.mark.parametrize("model", options_of("model"))
@pytest.mark.parametrize("dataset, width", [("cifar10", 1.0), ("tiny_imagenet", 0.5)])
def test_operations_agree_with_pytorchs_counter(job, model, dataset, width):
    """Per layer in the forward pass, and in total in forward and backward pass.

    In the backward pass, PyTorch's counter also attributes operations of the other branch of a residual block to the
    module of its shortcut, so that only its total can be compared.
    """
    words = [f"model={model}", f"dataset={dataset}"]
    if model in OF_LIBRARIES:
        words += [f"model.args.{'name' if model == 'torchvision' else 'model_name'}={OF_LIBRARIES[model]}"]
    else:
        words += [f"model.width={width}"]
    settings = job(*words).settings
    counted = operations(settings)
    with torch.device("meta"):
        network = spec_of(settings).build()
        images = torch.empty(2, settings.dataset.channels, *[settings.dataset.image_size] * 2)
        with FlopCounterMode(display=False, depth=None) as forward:
            network(images)
        with FlopCounterMode(display=False, depth=None) as both:
            network(images).sum().backward()
    modules = {name: f"{type(network).__name__}.{name.removesuffix('.weight')}" for name in prunable_weights(network)}
    of_layers = forward.get_flop_counts()
    assert {name: flops for name, (flops, _) in counted.items()} == {
        name: sum(of_layers[module].values()) / len(images) for name, module in modules.items()
    }
    total = sum(both.get_flop_counts()["Global"].get(operation, 0) for operation in LAYERS)
    assert sum(flops for _, flops in counted.values()) == total / len(images)


def test_the_cost_of_a_run_agrees_with_a_calculation_by_hand(job):
    made = job("dataset.validation=0.2", "trainer.max_epochs=7")
    cost = estimate_cost(made, 2, {})
    train, evaluated = 1437 - 287, 360 + 287
    assert (cost.epochs, cost.images) == (5, 5 * train)
    counted = operations(made.settings)
    dense = sum(5 * (train * both + evaluated * forward) for forward, both in counted.values())
    sparse = sum(
        5 * made.densities[name] * (train * both + evaluated * forward) for name, (forward, both) in counted.items()
    )
    assert cost.dense == pytest.approx(dense) and cost.sparse == pytest.approx(sparse) and sparse < dense / 2
    assert cost.seconds is None


def test_a_dense_run_costs_the_dense_operations_and_a_draw_costs_nothing(job):
    dense = estimate_cost(job("sparsity=dense"), 0, {})
    assert dense.sparse == dense.dense
    assert estimate_cost(job("method=draw"), 0, {}) == Cost()


def test_hours_are_estimated_from_finished_runs_of_the_same_kind(job):
    made = job("sparsity.level=0.5", "trainer.max_epochs=8")
    config = made.settings.model_dump(by_alias=True)
    other = job("model.width=2").settings.model_dump(by_alias=True)
    records = [
        {"state": "done", "config": config, "timing": {"fit_s": 10.0, "epochs": 5}},
        {"state": "done", "config": config, "timing": {"fit_s": 20.0, "epochs": 5}},
        {"state": "failed", "config": config, "timing": {"fit_s": 999.0, "epochs": 5}},
        {"state": "done", "config": other, "timing": {"fit_s": 999.0, "epochs": 5}},
        {"state": "done", "config": config, "timing": {}},
    ]
    timed = seconds_per_epoch(records)
    assert timed[timing_key(config)] == 3.0
    cost = estimate_cost(made, 2, timed)
    assert cost.seconds == 18.0
    assert "hours       0.0025 on 2 slots, 0.005 in all" in format_cost(cost, 2)


def test_hours_on_one_kind_of_hardware_are_not_promised_for_another(job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    made = job("sparsity.level=0.5", "trainer.max_epochs=5", "trainer=cpu")
    cpu = made.settings.model_dump(by_alias=True)
    cpu["trainer"] |= {"precision": "32-true", "execution": "masked"}
    gpu = {**cpu, "trainer": cpu["trainer"] | {"accelerator": "gpu"}}
    machine = "AMD EPYC, 64 cores, NVIDIA "
    timed = seconds_per_epoch(
        [
            {"state": "done", "config": gpu, "machine": machine + "H100", "timing": {"fit_s": 5.0, "epochs": 5}},
            {"state": "done", "config": gpu, "machine": machine + "A100", "timing": {"fit_s": 10.0, "epochs": 5}},
        ]
    )
    assert len(timed) == 2 and estimate_cost(made, 0, timed).seconds is None
    on_gpu = job("sparsity.level=0.5", "trainer.max_epochs=5", "trainer=gpu")
    assert estimate_cost(on_gpu, 0, timed).seconds == 10.0, "the slower of two kinds of GPU"
    compiled = job("sparsity.level=0.5", "trainer.max_epochs=5", "trainer=gpu", "trainer.execution=compiled")
    assert estimate_cost(compiled, 0, timed).seconds is None
    half = job("sparsity.level=0.5", "trainer.max_epochs=5", "trainer=gpu", "trainer.precision=16-mixed")
    assert estimate_cost(half, 0, timed).seconds is None


def test_sparsity_is_part_of_the_timing_key_with_sparse_execution_only(job):
    kind = lambda *words: timing_key(job(*words).settings.model_dump(by_alias=True))
    half, tenth = "sparsity.level=0.5", "sparsity.level=0.9"
    assert kind(half) == kind(tenth)
    assert len({kind(half), kind(half, "trainer.execution=sparse"), kind(tenth, "trainer.execution=sparse")}) == 3


def test_unknown_costs_are_reported_as_unknown(job):
    made = job("dataset.images=null")
    cost = total_cost([estimate_cost(made, 0, {}), estimate_cost(job(), 0, {})])
    assert cost.epochs == 60 and cost.images is None and cost.sparse is None and cost.seconds is None
    assert "hours       unknown until a run of each kind has been timed" in format_cost(cost, 1)


def test_the_numbers_of_images_agree_with_the_data(job):
    settings = job("dataset=digits").settings
    from ersparse.data.load import load_arrays

    arrays = load_arrays(settings.dataset)
    assert (len(arrays.x_train), len(arrays.x_test)) == settings.dataset.images


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_numbers_of_images_agree_with_cifar(job, cifar_root, dataset):
    import numpy as np

    images = job(f"dataset={dataset}").settings.dataset.images
    with np.load(cifar_root / f"{dataset}.npz") as file:
        assert (len(file["y_train"]), len(file["y_test"])) == images
