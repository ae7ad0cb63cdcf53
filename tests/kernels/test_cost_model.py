"""When `auto` takes sparse execution."""

import pytest
from conftest import TINY, read
from hypothesis import given
from hypothesis import strategies as st

from ersparse.kernels import compile as compiling
from ersparse.kernels.cost_model import RATE, REST, predicted_speedup


def test_a_gain_by_hand():
    """Two layers of 300 and 100 operations of which 30 and 50 stay: a fifth."""
    assert predicted_speedup([(300, 0.1), (100, 0.5)]) == pytest.approx(1 / (RATE * 0.2 + REST))


@given(st.floats(0, 0.99), st.floats(0.001, 0.01))
def test_a_sparser_network_gains_more(density, less):
    assert predicted_speedup([(7, density)]) > predicted_speedup([(7, density + less)])
    assert predicted_speedup([(7, 1.0)]) < 1 < predicted_speedup([(7, 0.0)])


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["sparsity.level=0.99"], "sparse"),
        (["sparsity.level=0.5"], "masked"),
        (["sparsity.level=0.99", "method=rigl"], "masked"),  # which would leave out some of what is recorded
        (["sparsity.level=0.99", "model.sync_batchnorm=true"], "masked"),
        (["sparsity=dense"], "masked"),
    ],
)
def test_auto_takes_what_is_faster_by_far(launch, only_run, words, wanted):
    try:
        compiling.library("float", "float")
    except compiling.KernelsUnavailable as reason:
        pytest.skip(str(reason))
    status, printed = launch(*TINY, *words, "trainer.accelerator=cpu")
    assert status == 0, printed
    assert read(only_run())["config"]["trainer"]["execution"] == wanted


def test_auto_without_a_compiler_says_nothing(launch, only_run, monkeypatch):
    compiling.library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, printed = launch(*TINY, "sparsity.level=0.99", "trainer.accelerator=cpu")
    assert status == 0 and "masked instead" not in printed
    assert read(only_run())["config"]["trainer"]["execution"] == "masked"
    compiling.library.cache_clear()
