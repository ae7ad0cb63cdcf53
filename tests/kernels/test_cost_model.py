"""The cost model, and when `trainer.execution=auto` chooses sparse execution."""

import pytest
from conftest import TINY, need_kernels, read
from hypothesis import given
from hypothesis import strategies as st

from ersparse.kernels import compile as compiling
from ersparse.kernels.cost_model import DENSE_TO_SPARSE_THROUGHPUT, OVERHEAD_FRACTION, predicted_speedup


def test_predicted_speedup_of_two_layers():
    """Of 300 and 100 FLOPs 30 and 50 remain, a fifth."""
    assert predicted_speedup([(300, 0.1), (100, 0.5)]) == pytest.approx(
        1 / (DENSE_TO_SPARSE_THROUGHPUT * 0.2 + OVERHEAD_FRACTION)
    )


@given(st.floats(0, 0.99), st.floats(0.001, 0.01))
def test_predicted_speedup_increases_with_sparsity(density, less):
    assert predicted_speedup([(7, density)]) > predicted_speedup([(7, density + less)])
    assert predicted_speedup([(7, 1.0)]) < 1 < predicted_speedup([(7, 0.0)])


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (["sparsity.level=0.99"], "sparse"),
        (["sparsity.level=0.5"], "masked"),
        (["sparsity.level=0.99", "method=rigl"], "masked"),  # sparse execution would not record all metrics
        (["sparsity.level=0.99", "model.sync_batchnorm=true"], "masked"),
        (["sparsity=dense"], "masked"),
    ],
)
def test_auto_chooses_sparse_execution_for_a_large_predicted_speedup(launch, only_run, overrides, expected):
    need_kernels("float", "float")
    status, printed = launch(*TINY, *overrides, "trainer.accelerator=cpu")
    assert status == 0, printed
    assert read(only_run())["config"]["trainer"]["execution"] == expected


def test_auto_without_a_compiler_is_masked_and_logs_nothing(launch, only_run, monkeypatch):
    compiling.library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, printed = launch(*TINY, "sparsity.level=0.99", "trainer.accelerator=cpu")
    assert status == 0 and "masked instead" not in printed
    assert read(only_run())["config"]["trainer"]["execution"] == "masked"
    compiling.library.cache_clear()
