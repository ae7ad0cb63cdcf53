"""Selection from many tensors at once: the masks of selections one by one, by operations that do not grow with them."""

import math

import pytest
import torch
from fake_device.tensors import Watch, fake_device

from ersparse.sparse.joint_topk import JointTopK
from ersparse.sparse.topk import topk_mask

SHAPES = [(1,), (3, 5), (1024,), (16, 4, 3, 3), (2049,), (40, 30, 3, 3)]


def tensors(kind):
    random = torch.Generator().manual_seed(0)
    found = [torch.randn(shape, generator=random) for shape in SHAPES]
    if kind == "ties":
        found = [values.mul(2).round().div(2) for values in found]  # -0.0 and 0.0 among them
    if kind == "excluded":
        found = [values.masked_fill(values > 0, -math.inf) for values in found]
    if kind == "infinite":
        found = [values.masked_fill(values > 1, math.inf) for values in found]
    if kind == "tiny":
        found = [values * 1e-30 for values in found]  # which a sum with any other number would make equal
    if kind == "channels_last":
        found = [v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for v in found]
        found = [values.round() for values in found]
    return found


@pytest.mark.parametrize("kind", ["random", "ties", "excluded", "infinite", "tiny", "channels_last"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_masks_equal_those_of_single_selections(kind, share):
    values = tensors(kind)
    counts = [round(share * tensor.numel()) for tensor in values]
    found = JointTopK([tensor.numel() for tensor in values], counts, torch.device("cpu")).masks(values)
    for tensor, count, mask in zip(values, counts, found, strict=True):
        assert mask.sum() == count and torch.equal(mask, topk_mask(tensor, count)[0])


def test_the_number_of_operations_does_not_depend_on_that_of_tensors(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    numbers = []
    with fake_device() as device:
        for count in (2, 60):
            values = [torch.randn(50).to(device) for _ in range(count)]
            selection = JointTopK([50] * count, [5] * count, device)
            with Watch(refuse_waits=True) as seen:
                selection.masks(values)
            numbers.append(seen.operations.total())
    assert numbers[0] == numbers[1] < 130
