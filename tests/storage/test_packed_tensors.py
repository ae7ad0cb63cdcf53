"""Packed tensors come back bit for bit, and take the bytes that they should."""

import io

import torch
from hypothesis import given
from hypothesis import strategies as st

from ersparse.storage.checkpoints import CheckpointFiles
from ersparse.storage.packed_tensors import is_packed, pack, unpack


def through_a_file(value):
    stream = io.BytesIO()
    torch.save(pack(value), stream)
    size = stream.tell()
    stream.seek(0)
    return unpack(torch.load(stream, weights_only=True)), size


def bits(tensor):
    return tensor.contiguous().view(torch.uint8).tolist() if tensor.dtype != torch.bool else tensor.tolist()


@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool]),
    shape=st.sampled_from([(1024,), (1023,), (40, 30), (8, 16, 3, 3), (70_000,)]),
    density=st.sampled_from([0.0, 0.00002, 0.001, 0.1, 0.49, 0.9]),
    channels_last=st.booleans(),
    seed=st.integers(0, 100),
)
def test_tensors_come_back_bit_for_bit(dtype, shape, density, channels_last, seed):
    random = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=random) * (torch.rand(shape, generator=random) < density)  # with -0.0, too
    tensor = tensor.to(dtype)
    if channels_last and tensor.dim() == 4:
        tensor = tensor.to(memory_format=torch.channels_last)
    found, _ = through_a_file({"a": [tensor], "b": (1, "two")})
    assert found["b"] == (1, "two") and found["a"][0].dtype == dtype
    assert found["a"][0].stride() == tensor.stride() and bits(found["a"][0]) == bits(tensor)


def test_special_values_are_kept():
    tensor = torch.zeros(2000)
    tensor[:5] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, -1.0])
    assert is_packed(pack(tensor)) and bits(through_a_file(tensor)[0]) == bits(tensor)


def test_a_mask_its_weight_and_its_momentum_share_their_positions():
    """At density 0.01 the gaps need two bytes: with two float32 values that is 10 bytes a kept weight."""
    mask = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)) < 0.01
    kept, weight = int(mask.sum()), mask * torch.ones(1_000_000)
    found, size = through_a_file({"mask": mask, "weight": weight, "momentum": 2 * weight})
    assert size < 10 * kept + 5_000 and torch.equal(found["mask"], mask) and torch.equal(found["momentum"], 2 * weight)


def test_packing_leaves_dense_contents_and_their_format_as_they_were(tmp_path):
    dense = {"weight": torch.ones(5000), "step": torch.tensor(3.0), "mask": torch.zeros(100, dtype=torch.bool)}
    assert pack(dense)["weight"] is dense["weight"] and not is_packed(pack(dense))
    files = CheckpointFiles(tmp_path, "hash/0")
    files.write(dense, files.intended(1))
    files.write({**dense, "sparse": torch.zeros(5000)}, files.intended(2))
    first, second = sorted(path.name for path in tmp_path.iterdir())
    assert ".v2." not in first and second.endswith(".v2.ckpt") and files.latest() == (2, tmp_path / second)
    (tmp_path / second).write_bytes(b"cut")
    assert files.latest() == (1, tmp_path / first)
