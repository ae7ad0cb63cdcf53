"""Initial weights scaled by density."""

import numpy as np
import torch

from ersparse.sparse.initialization import scaled_weight
from ersparse.sparse.layers import Layer
from ersparse.sparse.mask import draw_exact
from ersparse.sparse.rng import generator


def test_scaled_weights_have_variance_two_over_fan_in():
    """Variances within 6 standard errors (sqrt(2/n)) of 2 / fan-in."""
    mask = draw_exact(Layer("l", (64, 64, 3, 3)), 0.2, generator(0))
    mask[0] = True
    random = np.random.default_rng()
    by_layer, by_neuron = (scaled_weight(mask, mode, random) for mode in ("layer", "neuron"))
    mean_fan_in = mask.flatten(1).sum(1).double().mean()
    for weight, fan_in, kept in (
        (by_layer, mean_fan_in, mask),
        (by_neuron[0], torch.tensor(576.0), mask[0]),
        (by_neuron[1], mask[1].sum(), mask[1]),
    ):
        values = weight[kept]
        assert abs(values.pow(2).mean() * fan_in / 2 - 1) < 6 * (2 / len(values)) ** 0.5
    assert by_layer[~mask].eq(0).all() and by_neuron[~mask].eq(0).all()


def test_a_neuron_without_weights_gives_finite_values():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert scaled_weight(mask, "neuron", np.random.default_rng(0)).eq(0).all()
