"""Expanders: degrees, the spectral bound of graphs that are known, and what networks get."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ersparse
from ersparse.models import resnet20
from ersparse.sparse.expanders import (
    biregular_graph,
    draw_expander,
    ramanujan_bound,
    ramanujan_graph,
    second_singular_value,
)
from ersparse.sparse.layers import Layer, prunable_layers


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 99))
def test_degrees_of_columns_differ_by_one_at_most(rows, columns, degree, seed):
    degree = min(degree, columns)
    edges = biregular_graph(rows, columns, degree, np.random.default_rng(seed))
    assert (edges.sum(1) == degree).all() and edges.sum(0).max() - edges.sum(0).min() <= 1


@given(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.data())
def test_kernels_and_channels_have_equal_numbers_of_weights(groups, rows, columns, size, data):
    layer = Layer("l", (groups * rows, columns, size), groups)
    count = data.draw(st.integers(0, layer.fan_in))
    mask = draw_expander(layer, count, np.random.default_rng(0))
    kernels = mask.sum(2)
    assert mask.shape == layer.shape and kernels.sum(1).eq(count).all()
    assert kernels.min() == count // columns and kernels.max() <= count // columns + 1
    feeds = kernels.reshape(groups, rows, columns).sum(1)
    assert (feeds.max(1).values - feeds.min(1).values).max() <= 1


def test_the_bound_of_graphs_that_are_known():
    """The incidence graph of the Fano plane has singular values 3 and sqrt(2); a complete graph has one only."""
    fano = np.zeros((7, 7), dtype=bool)
    for line in range(7):
        fano[line, [(line + shift) % 7 for shift in (0, 1, 3)]] = True
    assert second_singular_value(fano) == pytest.approx(math.sqrt(2)) and ramanujan_bound(fano) == 2 * math.sqrt(2)
    assert second_singular_value(np.ones((3, 5), dtype=bool)) == pytest.approx(0, abs=1e-12)
    apart = np.kron(np.eye(2, dtype=bool), np.ones((4, 4), dtype=bool))  # two parts: the first value twice
    assert second_singular_value(apart) == pytest.approx(4) and ramanujan_bound(apart) < 4


@pytest.mark.parametrize("rows, columns, degree", [(64, 64, 4), (64, 32, 3), (16, 64, 12), (128, 128, 6)])
def test_drawn_graphs_are_ramanujan(rows, columns, degree):
    edges = ramanujan_graph(rows, columns, degree, np.random.default_rng(3))
    assert second_singular_value(edges) <= ramanujan_bound(edges)


def test_a_network_of_expanders():
    network = resnet20(10, channels=3, width=0.5)
    masks, record = ersparse.sparsify(network, "erk", 0.9, sampling="ramanujan")
    assert record["sparsity"]["realised"] == pytest.approx(0.9, abs=0.01)
    checked = 0
    for layer in prunable_layers(network):
        kernels = masks[layer.name].reshape(layer.n_out, layer.n_in, -1).sum(2)
        assert kernels.sum(1).unique().numel() == 1 and kernels.sum(0).max() - kernels.sum(0).min() <= 1
        extra = (kernels > kernels.min()).numpy()
        if extra.sum(0).min() >= 2 and extra.sum(1).min() >= 2 and extra.shape[0] > 10:
            checked += 1
            assert second_singular_value(extra) <= ramanujan_bound(extra), layer.name
    assert checked > 5
    assert torch.equal(masks["conv1.weight"], ersparse.sparsify(
        resnet20(10, channels=3, width=0.5), "erk", 0.9, sampling="ramanujan").masks["conv1.weight"])  # fmt: skip
