"""Blocks of input channels: where segments begin, how large blocks are, and that results do not depend on them."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ersparse.kernels import input_blocks
from ersparse.kernels.buffers import Precision
from ersparse.kernels.csr import MaskCoordinates
from ersparse.kernels.input_blocks import L1_BYTES, MIN_WEIGHTS, InputBlocks, channels_per_block, window_bytes
from ersparse.kernels.network import SparseNetwork
from ersparse.sparse.mask import attach


def test_segments_are_those_of_a_loop_over_weights(monkeypatch):
    monkeypatch.setattr(input_blocks, "channels_per_block", lambda *_: 3)
    mask = torch.rand(5, 8, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    mask[2], mask[:, 3:6] = False, False  # an empty output channel, an empty block
    pattern = MaskCoordinates.from_mask(mask).forward_pattern(6, 7, 16)
    blocks = InputBlocks.of(pattern, 8, 1)
    assert blocks.count == 3 and blocks.segments.is_contiguous()
    channels = mask.nonzero()[:, 1].numpy()
    for block, c in itertools.product(range(3), range(5)):
        row = channels[mask[:c].sum() : mask[: c + 1].sum()]
        begin = mask[:c].sum() + np.sum(row < 3 * block)
        end = mask[:c].sum() + np.sum(row < 3 * (block + 1))
        assert (blocks.segments[block, c], blocks.segments[block + 1, c]) == (begin, end)


@pytest.mark.parametrize(
    "n_in, weights, window, size",
    [
        (64, 9.0, L1_BYTES // 8, 8),  # as many channels as fit
        (64, 1.0, L1_BYTES // 8, 64),  # 20 channels for MIN_WEIGHTS would be more than twice the cache
        (64, 2.0, L1_BYTES // 8, 10),
        (4, 9.0, L1_BYTES // 8, 4),
        (64, 9.0, 3 * L1_BYTES, 64),
        (64, 0.0, 64, 64),
    ],
)
def test_blocks_fit_the_cache_and_hold_enough_weights(n_in, weights, window, size):
    assert MIN_WEIGHTS == 20
    assert channels_per_block(n_in, weights, window) == size


def test_a_window_is_what_a_tile_of_sixteen_vectors_reads():
    assert window_bytes((32, 32), (3, 3), (1, 1)) == 4 * 10 * 64  # two rows of eight pixels
    assert window_bytes((1, 32), (3, 3), (1, 1)) == 3 * 18 * 64  # one of sixteen
    assert window_bytes((8, 8), (3, 3), (2, 2)) == 5 * 17 * 64
    assert window_bytes((8, 8), (3, 3), (1, 1), vectors=2) == 4 * 6 * 64  # bfloat16: two rows of four
    assert window_bytes((2, 2), (3, 3), (1, 1)) == 4 * 4 * 64


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
def test_results_have_the_same_bits_with_any_blocks(storage, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 70, 3, padding=1), nn.BatchNorm2d(70), nn.ReLU(), nn.Conv2d(70, 66, 3, 2))
    attach(network, {"0.weight": torch.rand(70, 3, 3, 3) < 0.5, "3.weight": torch.rand(66, 70, 3, 3) < 0.2})
    x, results = torch.randn(20, 3, 9, 11), []
    for size in (1000, 16, 5, 1):
        monkeypatch.setattr(input_blocks, "channels_per_block", lambda n_in, *_, size=size: min(size, n_in))
        sparse = SparseNetwork(network, Precision(torch.float32, storage))
        y = sparse(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in sparse.trainable_parameters())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_weight_gradients_of_pairs_are_sums_of_products_of_what_is_stored():
    """A linear layer on integers, which bfloat16 and the sums hold exactly."""
    generator = torch.Generator().manual_seed(0)
    layer, mask = nn.Linear(40, 30, bias=False), torch.rand(30, 40, generator=generator) < 0.5
    attach(layer, {"weight": mask})
    sparse = SparseNetwork(layer, Precision(torch.float32, torch.bfloat16))
    x, g = (torch.randint(-9, 10, (70, n), generator=generator).float() for n in (40, 30))
    sparse(x.view(70, 40, 1, 1)).backward(g)
    assert torch.equal(sparse.trainable_parameters()[0].grad, (g.T @ x)[mask])
