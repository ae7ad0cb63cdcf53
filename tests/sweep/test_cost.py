"""What a dry run says that a sweep costs."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ersparse.config.options import CONF
from ersparse.sweep.build_jobs import jobs_of
from ersparse.sweep.compose import Composer
from ersparse.sweep.cost import Cost, cost_of, in_words, kind_of, operations, timings, total


@pytest.fixture
def job():
    def make(*words):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            (made,) = jobs_of([list(words)], Composer(GlobalHydra.instance().config_loader()))
        return made

    return make


def test_operations_of_a_layer_by_hand(job):
    """Twice the multiplications; backwards the same again for the weights and, but for the images, for the inputs."""
    counted = operations(job("model=resnet20").settings)
    first = 2 * 16 * 16 * (1 * 9) * 16  # 16x16 pixels, one channel in, 16 out
    second = 2 * 16 * 16 * (16 * 9) * 16
    assert counted["conv1.weight"] == (first, 2 * first)
    assert list(counted.values())[1] == (second, 3 * second)
    last = 2 * 64 * 10
    assert list(counted.values())[-1] == (last, 3 * last)


def test_the_cost_of_a_run_by_hand(job):
    made = job("dataset.validation=0.2", "trainer.max_epochs=7")
    cost = cost_of(made, 2, {})
    train, evaluated = 1437 - 287, 360 + 287
    assert (cost.epochs, cost.images) == (5, 5 * train)
    counted = operations(made.settings)
    dense = sum(5 * (train * both + evaluated * forward) for forward, both in counted.values())
    sparse = sum(
        5 * made.densities[name] * (train * both + evaluated * forward) for name, (forward, both) in counted.items()
    )
    assert cost.dense == pytest.approx(dense) and cost.sparse == pytest.approx(sparse) and sparse < dense / 2
    assert cost.seconds is None


def test_dense_runs_cost_the_dense_operations_and_draws_nothing(job):
    dense = cost_of(job("sparsity=dense"), 0, {})
    assert dense.sparse == dense.dense
    assert cost_of(job("method=draw"), 0, {}) == Cost()


def test_hours_once_a_run_of_that_kind_has_been_timed(job):
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
    timed = timings(records)
    assert timed[kind_of(config)] == 3.0
    cost = cost_of(made, 2, timed)
    assert cost.seconds == 18.0
    assert "hours       0.0025 on 2 slots, 0.005 in all" in in_words(cost, 2)


def test_the_density_decides_how_long_sparse_execution_takes(job):
    kind = lambda *words: kind_of(job(*words).settings.model_dump(by_alias=True))
    half, tenth = "sparsity.level=0.5", "sparsity.level=0.9"
    assert kind(half) == kind(tenth) == kind(half, "trainer.execution=masked")
    assert len({kind(half), kind(half, "trainer.execution=sparse"), kind(tenth, "trainer.execution=sparse")}) == 3


def test_what_is_not_known_is_not_invented(job):
    made = job("dataset.images=null")
    cost = total([cost_of(made, 0, {}), cost_of(job(), 0, {})])
    assert cost.epochs == 60 and cost.images is None and cost.sparse is None and cost.seconds is None
    assert "hours       unknown until a run of each kind has been timed" in in_words(cost, 1)


def test_the_numbers_of_images_are_true(job):
    settings = job("dataset=digits").settings
    from ersparse.data.load import load_arrays

    arrays = load_arrays(settings.dataset)
    assert (len(arrays.x_train), len(arrays.x_test)) == settings.dataset.images


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_the_numbers_of_images_are_true_of_cifar(job, cifar_root, dataset):
    import numpy as np

    images = job(f"dataset={dataset}").settings.dataset.images
    with np.load(cifar_root / f"{dataset}.npz") as file:
        assert (len(file["y_train"]), len(file["y_test"])) == images
