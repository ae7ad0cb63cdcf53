"""Weak tickets equal their targets on the input box and at padded borders; failures name the missing weight."""

import numpy as np
import pytest
import torch
from torch import nn

from ersparse.errors import UserError
from ersparse.sparse.mask import masks_of
from ersparse.theory.input_copy_layer import with_input_copy_layer
from ersparse.theory.networks import (
    affine_layers,
    max_output_difference,
    nonzero_weights,
    random_target,
    source_network,
)
from ersparse.theory.weak import MissingRepresentative, choose_representatives, weak_ticket
from ersparse.theory.widths import weak_copies

LARGEST = 1e6  # possible edges of the largest source layer in a quick test
DELTA = 1e-3


def copies_for(target, p, identity="auto", low=-1.0):
    stages = with_input_copy_layer(affine_layers(target), low, identity)
    return weak_copies(nonzero_weights(stages[1:]), p, DELTA)


def box(random, *shape):
    return torch.from_numpy(random.uniform(-1, 1, shape))


def fully_connected(random):
    """Draw a target of depth 1 to 6, widths up to 64 and density in [.05, 1], and source densities in [.05, 1]."""
    while True:
        widths = [int(w) for w in random.integers(1, 65, random.integers(2, 8))]
        density, p = random.uniform(0.05, 1), float(np.exp(random.uniform(np.log(0.05), 0)))
        target = random_target(widths, density, random)
        by_layer = [float(random.choice([p, 1.0]))] + [p] * (len(widths) - 1)
        q = copies_for(target, by_layer)
        sizes = [a * b * c * d for a, b, c, d in zip(widths[:-1], q[:-1], widths[1:], q[1:], strict=True)]
        if max(sizes) <= LARGEST:
            return target, q, by_layer, widths


@pytest.mark.slow
def test_tickets_equal_200_fully_connected_targets():
    """Each fails with probability DELTA at most; more than 7 of 200 fail by chance once in 10^8."""
    random, failures = np.random.default_rng(2026), 0
    for seed in range(200):
        target, q, p, widths = fully_connected(random)
        try:
            ticket = weak_ticket(target, q, p, seed, low=-1)
        except MissingRepresentative:
            failures += 1
            continue
        assert max_output_difference(target, ticket.network, box(random, 128, widths[0])) < 1e-10
        for name, mask in ticket.masks.items():
            assert mask.dtype == torch.bool and not (mask & ~ticket.source_masks[name]).any()
    assert failures <= 7


@pytest.mark.slow
@pytest.mark.parametrize("depth, p", [(1, 0.05), (2, 0.1), (6, 0.2)])
def test_tickets_equal_wide_targets_in_sparse_sources(depth, p):
    """Targets of width 64 need source layers of up to 10^8 possible edges."""
    random = np.random.default_rng(depth)
    target = random_target([64] * (depth + 1), 0.5, random)
    by_layer = [1.0] + [p] * depth
    ticket = weak_ticket(target, copies_for(target, by_layer), by_layer, 0, low=-1)
    assert max_output_difference(target, ticket.network, box(random, 16, 64)) < 1e-10


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("identity", ["auto", "padded", "pairs"])
def test_tickets_equal_convolutional_targets(kernel, stride, padded, identity):
    random = np.random.default_rng([kernel, stride, padded])
    for seed in range(3):
        channels = [int(c) for c in random.integers(2, 5, 3)]
        target = random_target(channels, random.uniform(0.3, 1), random, [kernel, 3], stride, padded)
        p = [0.5, 0.4, 0.4]
        ticket = weak_ticket(target, copies_for(target, p, identity), p, seed, -1.0, identity)
        images = box(random, 8, channels[0], 15, 13)
        assert target(images).shape == ticket.network(images).shape
        assert max_output_difference(target, ticket.network, images) < 1e-10


def test_the_printed_bias_is_wrong_only_at_padded_borders():
    """With the shift of A.3 the error is the shift times the kernel weights that fall on padding."""
    target = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, dtype=torch.float64))
    target[0].weight.data.fill_(1.0)
    target[0].bias.data.fill_(0.0)
    p = [1.0, 0.5]
    images = box(np.random.default_rng(0), 4, 1, 6, 6)
    shifted = weak_ticket(target, copies_for(target, p, "shift"), p, 0, -1.0, "shift").network
    with torch.no_grad():
        off = (target(images) - shifted(images)).abs()
    assert off[..., 1:-1, 1:-1].max() < 1e-12
    torch.testing.assert_close(off[..., 0, 0], torch.full((4, 1), 5.0).double())  # five of nine fall outside
    torch.testing.assert_close(off[..., 0, 2], torch.full((4, 1), 3.0).double())
    unshifted = weak_ticket(target, copies_for(target, p, "shift"), p, 0, 0.0, "shift").network
    assert max_output_difference(target, unshifted, images.abs()) < 1e-12  # inputs of at least 0 need no shift


def test_a_larger_kernel_of_the_input_copy_layer_keeps_only_its_centre():
    random = np.random.default_rng(1)
    target, p = random_target([2, 3], 1, random, [3], padded=True), [0.3, 0.5]
    ticket = weak_ticket(target, copies_for(target, p), p, 0, -1.0, kernel=3)
    zero = ticket.masks["0.weight"]
    assert zero.shape[2:] == (3, 3) and zero[:, :, 1, 1].any()
    assert zero.sum() == zero[:, :, 1, 1].sum()
    assert max_output_difference(target, ticket.network, box(random, 4, 2, 9, 9)) < 1e-10


def test_the_ticket_has_attached_masks_and_is_reproducible():
    target = random_target([3, 4, 2], 1, np.random.default_rng(0))
    ticket = weak_ticket(target, [40, 20, 1], [0.8, 0.5, 0.5], 0, low=-1)
    assert masks_of(ticket.network).keys() == ticket.masks.keys() == {"0.weight", "2.weight", "4.weight"}
    for name, weight in ticket.network.named_parameters():
        if name in ticket.masks:
            assert (weight[~ticket.masks[name]] == 0).all()
    assert int(ticket.masks["4.weight"].sum()) == 8  # one edge for each target weight, because the output has no copies
    again = weak_ticket(target, [40, 20, 1], [0.8, 0.5, 0.5], 0, low=-1)
    assert all(torch.equal(ticket.source_masks[name], again.source_masks[name]) for name in ticket.masks)


def test_tickets_equal_float32_targets():
    target = random_target([5, 16, 3], 0.7, np.random.default_rng(0)).float()
    p = [1.0, 0.3, 0.3]
    ticket = weak_ticket(target, copies_for(target, p), p, 0, low=-1)
    assert max_output_difference(target, ticket.network, torch.rand(100, 5) * 2 - 1) < 1e-5


def test_choose_representatives_by_hand():
    """One output and two inputs have two copies each; the first copy of the second input is not usable."""
    weight = torch.tensor([[2.0, 3.0]])
    mask = torch.tensor([[[[1, 1], [1, 1]], [[0, 1], [1, 0]]]]).bool()[..., None]
    usable = torch.tensor([[1, 1], [0, 1]]).bool()
    chosen, missing = choose_representatives(weight, mask, usable)
    assert chosen.squeeze(-1).int().tolist() == [[[[1, 0], [0, 1]], [[0, 1], [0, 0]]]]
    assert missing.squeeze(-1).int().tolist() == [[[0, 0], [0, 1]]]


def test_the_error_names_the_weight_without_representative():
    """It is the first pair of output and input block without an edge in the drawn mask."""
    target = random_target([1, 2, 2], 1, np.random.default_rng(0))
    complete = 0
    for seed in range(40):  # each misses an edge with probability .41
        drawn = _drawn_masks(target, [1, 3, 1], [1, 1, 0.5], seed)["4.weight"].reshape(2, 2, 3)
        if drawn.any(2).all():
            complete += 1
            assert weak_ticket(target, [1, 3, 1], [1, 1, 0.5], seed).masks["4.weight"].sum() == 4
            continue
        with pytest.raises(MissingRepresentative) as refused:
            weak_ticket(target, [1, 3, 1], [1, 1, 0.5], seed)
        out, into = (~drawn.any(2)).nonzero().tolist()[0]
        assert (refused.value.layer, refused.value.out, refused.value.into) == (2, out, into)
        line = f"layer 2: the weight from {into} to {out} has no representative among 3 copies"
        assert str(refused.value).startswith(line) and "\n" not in str(refused.value)
    assert 0 < complete < 40


def _drawn_masks(target, copies, p, seed):
    from ersparse.theory.networks import draw_masks

    return draw_masks(source_network(with_input_copy_layer(affine_layers(target), 0.0), copies), p, seed)


def test_incomplete_copies_can_be_pruned():
    """The ticket is rare if every copy must be complete; if one copy suffices it is not rare, and it is as exact."""
    random = np.random.default_rng(0)
    target, copies, p = random_target([4, 6, 2], 1, random), [12, 9, 1], [1.0, 0.3, 0.5]
    with pytest.raises(MissingRepresentative):
        weak_ticket(target, copies, p, 0, low=-1)
    ticket = next(t for t in (_try(target, copies, p, seed) for seed in range(200)) if t)
    assert max_output_difference(target, ticket.network, box(random, 64, 4)) < 1e-10


def _try(target, copies, p, seed):
    try:
        return weak_ticket(target, copies, p, seed, low=-1, every_copy=False)
    except MissingRepresentative:
        return None


@pytest.mark.parametrize(
    "target, line",
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)), "target: Tanh at 1, must be ReLU"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "target: must be Linear layers alone"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Linear(2, 2)), "target: must be Linear layers alone"),
        (nn.Sequential(nn.BatchNorm1d(2)), "target: BatchNorm1d at 0, must be Linear or Conv2d"),
        (nn.Conv2d(2, 2, 1, groups=2), "target: Conv2d(2, 2, kernel_size=(1, 1), stride=(1, 1), groups=2) at 0"),
        (nn.Conv2d(2, 2, 3, padding="same"), "target: padding=same, must be given in pixels"),
    ],
)
def test_unsupported_targets_are_rejected(target, line):
    with pytest.raises(UserError) as error:
        weak_ticket(target, [1, 1], [1, 1], 0)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"copies": [3, 1]}, "copies=[3, 1]: must be 3 numbers, the last 1; [32, 13, 1] would suffice"),
        ({"copies": [3, 0, 1]}, "copies=[3, 0, 1]: layer 1 must have 1 or more; 13 would suffice"),
        ({"copies": [3, 3, 2]}, "copies=[3, 3, 2]: must be 3 numbers, the last 1"),
        ({"p": [0.5, 0.5]}, "p=[0.5, 0.5]: must have 3 densities"),
        ({"p": [0.5, 0, 0.5]}, "p=0: must lie in (0, 1]"),
        ({"identity": "twice"}, "identity=twice: must be one of auto, shift, padded, pairs"),
        ({"kernel": 3}, "kernel=3: must be odd, and 1 for a linear target"),
    ],
)
def test_invalid_arguments_are_rejected(change, line):
    target = random_target([1, 3, 12], 1, np.random.default_rng(0))
    with pytest.raises(UserError) as error:
        weak_ticket(target, **({"copies": [9, 9, 1], "p": [0.5] * 3, "seed": 0} | change))
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_the_widths_that_the_error_suggests_suffice():
    target = random_target([1, 3, 12], 1, np.random.default_rng(0))
    weak_ticket(target, [32, 13, 1], [0.5] * 3, 0)
