"""N:M masks and blocks: drawing, repair, one update of each by hand, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import ersparse
from ersparse.config.rewiring_rules import RewiringRules
from ersparse.errors import UserError
from ersparse.loops.mask_updates import MaskUpdates
from ersparse.sparse.degrees import zero_degrees
from ersparse.sparse.layers import Layer, prunable_layers
from ersparse.sparse.mask import masks_of
from ersparse.sparse.patterned_source import PatternedSource
from ersparse.sparse.patterns import Blocks, NOfM, pattern_named

RULES = RewiringRules(
    delta_t=1, drop_fraction=0.5, final_fraction=0.0, decay="constant", t_end=1.0, grow="gradient", regrow=True,
    scope="layer", skip_step=False, grown_value="zero", grown_state="zero", keep_flow=False, final_sparsity=None,
    schedule="cubic", prune_until=1.0,
)  # fmt: skip
SIDES = st.sampled_from([1, 2, 3, 4, 6])
LAYERS = st.builds(
    lambda groups, n_out, n_in, kernel, transposed: Layer(
        "l", (groups * n_in, n_out, kernel) if transposed else (groups * n_out, n_in, kernel), groups, transposed
    ),
    st.integers(1, 3), SIDES, SIDES, st.integers(1, 3), st.booleans(),
)  # fmt: skip


def slow_fits(pattern, layer, mask):
    """Count the weights of each group or block with loops over channels."""
    rows = layer.to_rows(mask).reshape(layer.n_out, layer.n_in // layer.groups, -1).numpy()
    if isinstance(pattern, NOfM):
        places = [(o, i, k) for o, i, k in np.ndindex(rows.shape) if i % pattern.m == 0]
        return all(sum(rows[o, i + j, k] for j in range(pattern.m)) == pattern.n for o, i, k in places)
    return all(
        rows[o, i, k] == rows[o // pattern.rows * pattern.rows, i // pattern.columns * pattern.columns, k]
        for o, i, k in np.ndindex(rows.shape)
    )


@given(LAYERS, st.sampled_from(["1:2", "2:3", "1x2", "2x1", "2x3", "3x2"]), st.integers(0, 99))
def test_masks_have_the_pattern_as_drawn_and_after_repair(layer, text, seed):
    pattern = pattern_named(text)
    assume(pattern.misfit(layer) is None)
    density = pattern.n / pattern.m if isinstance(pattern, NOfM) else 0.5
    source = PatternedSource([layer], [density], density, seed, pattern=pattern)
    drawn = source.draw()
    repaired, counts = source.repair(drawn)
    for mask in (drawn["l"], repaired["l"]):
        assert mask.shape == layer.shape and slow_fits(pattern, layer, mask) and pattern.fits(layer, mask)
    count = counts["l"]
    assert count.drawn == drawn["l"].sum() and count.drawn + count.added_in + count.added_out == repaired["l"].sum()
    assert (count.zero_in, count.zero_out) == zero_degrees(drawn["l"], layer)
    weights = layer.n_out // layer.groups * math.prod(layer.shape[2:]) * getattr(pattern, "n", 0)
    if isinstance(pattern, Blocks) or weights >= pattern.m:
        assert zero_degrees(repaired["l"], layer) == (0, 0)
    other = torch.ones(layer.shape, dtype=torch.bool)
    other.view(-1)[0] = False
    assert pattern.fits(layer, other) == slow_fits(pattern, layer, other)


def test_blocks_are_drawn_like_weights_of_a_smaller_layer():
    layer, pattern = Layer("l", (8, 6, 3)), Blocks(4, 2)
    assert pattern.reduced(layer) == Layer("l", (2, 3, 3))
    source = PatternedSource([layer], [1 / 3], 1 / 3, 0, "exact", "none", pattern=pattern)
    assert source.draw()["l"].sum() == 6 * 8
    assert pattern.reduce(layer, torch.ones(layer.shape)).eq(8).all()


def test_layers_of_density_one_or_zero_need_no_pattern():
    layers = [Layer("a", (3, 1)), Layer("b", (3, 5)), Layer("c", (3, 4))]
    source = PatternedSource(layers, [1.0, 0.0, 0.5], 0.5, 0, pattern=NOfM(2, 4))
    masks, _ = source.repair(source.draw())
    assert masks["a"].all() and not masks["b"].any() and masks["c"].sum(1).eq(2).all()


def updated(network, gradient, pattern, **rules):
    """Return the mask of the only layer after one update by a given gradient."""
    updates = MaskUpdates(RULES.model_copy(update=rules), prunable_layers(network), 0, pattern)
    updates.rewiring_end = 2.0
    network.weight.grad = gradient
    updates._update(1, network, {})
    return masks_of(network)["weight"]


def linear(weight, mask):
    network = nn.Linear(*reversed(weight.shape), bias=False)
    ersparse.sparse.mask.attach(network, {"weight": mask})
    network.weight.data.copy_(weight * mask)
    return network


def test_an_update_of_two_of_four_matches_values_computed_by_hand():
    """Of four weights the two smallest go, both of the second group, which so grows the two largest gradients in it."""
    mask = torch.tensor([[1, 1, 0, 0, 0, 1, 1, 0]]).bool()
    weight = torch.tensor([[3.0, 4, 0, 0, 0, 1, -2, 0]])
    gradient = torch.tensor([[0.0, 0, 9, 9, 5, 0, 0.1, 0]])
    assert updated(linear(weight, mask), gradient, NOfM(2, 4)).int().tolist() == [[1, 1, 0, 0, 1, 0, 1, 0]]


def test_an_update_of_blocks_matches_values_computed_by_hand():
    """Of the blocks with |w| 1 + 1 and 3 the first goes, although the other has the smallest weight."""
    mask = torch.tensor([[1, 1, 0, 0, 1, 1]]).bool()
    weight = torch.tensor([[1.0, -1, 0, 0, 3, 0.1]])
    gradient = torch.tensor([[1.0, 1, 1.5, 1, 0, 0]])
    assert updated(linear(weight, mask), gradient, Blocks(1, 2)).int().tolist() == [[0, 0, 1, 1, 1, 1]]


def test_the_library_draws_and_rewires_patterns():
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    masks, record = ersparse.sparsify(network, "uniform", 0.5, pattern="2:4")
    assert record["sparsity"]["realised"] == 0.5
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with pytest.raises(UserError, match=r"^pattern=2x1: the mask of 0.weight does not have it"):
        ersparse.rewire(network, optimizer, steps=3, pattern="2x1")
    before = masks["0.weight"].clone()
    handle = ersparse.rewire(network, optimizer, steps=3, delta_t=1, pattern="2:4", drop_fraction=0.5)
    network(torch.randn(2, 4, 5, 5)).square().sum().backward()
    optimizer.step()
    assert handle.step() and not masks["0.weight"].equal(before)
    for layer in prunable_layers(network):
        assert slow_fits(NOfM(2, 4), layer, masks[layer.name])
    with pytest.raises(UserError, match="^pattern=2-4: must be N:M"):
        ersparse.sparsify(nn.Linear(4, 4), "uniform", 0.5, pattern="2-4")
