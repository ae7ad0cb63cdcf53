"""Data loading against slow references: numpy's padding and slicing, torchvision's normalisation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import planned
from torchvision.transforms import functional as TF

from ersparse.data.arrays import Arrays
from ersparse.data.augmentation import Augmentation
from ersparse.data.batches import ImageTable, InMemoryDataLoader
from ersparse.data.datamodule import ImageDataModule
from ersparse.data.epoch_plan import EpochPlan, batches_in, smallest_batch, train_validation_split

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def images(count: int = 50, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, ImageTable]:
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=random)
    y = torch.arange(count) % 10
    return x, y, ImageTable.from_images(x, y, MEAN, STD, torch.device("cpu"))


def test_batches_without_augmentation_are_normalised_images():
    x, y, table = images()
    ((batch, labels),) = InMemoryDataLoader(table, torch.arange(50), 50)
    expected = TF.normalize(x.permute(0, 3, 1, 2).float() / 255, MEAN, STD)
    torch.testing.assert_close(batch, expected, rtol=1e-5, atol=1e-5)
    assert labels.equal(y)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_all_images_may_be_flipped_without_a_gather():
    x, y, table = images()
    which = torch.arange(50) % 3 == 0
    batch, labels = table.flipped(which)
    expected = TF.normalize(x.permute(0, 3, 1, 2).float() / 255, MEAN, STD)
    expected[which] = expected[which].flip(3)
    torch.testing.assert_close(batch, expected, rtol=1e-5, atol=1e-5)
    assert labels.equal(y)


@pytest.mark.parametrize("mode, numpy_mode", [("zero", "constant"), ("reflect", "reflect")])
def test_crop_and_flip_match_padding_and_slicing(mode, numpy_mode):
    """Every output is one of the 81 x 2 crops of its own padded image, and all offsets and flips occur."""
    x, y, table = images()
    padded = np.pad(x.numpy(), ((0, 0), (4, 4), (4, 4), (0, 0)), mode=numpy_mode)
    seen = set()
    for epoch in range(40):
        batches = InMemoryDataLoader(
            table, torch.arange(50), 50, seed=3, augmentation=Augmentation(4, mode, True), epoch=lambda e=epoch: e
        )
        ((batch, labels),) = batches
        order = torch.randperm(50, generator=torch.Generator().manual_seed(3 * 1_000_003 + epoch))
        assert labels.equal(y[order])
        plain = batch * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        found = (plain * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for image, source in zip(found, order.tolist(), strict=True):
            matches = [
                (top, left, flip)
                for top in range(9)
                for left in range(9)
                for flip in (1, -1)
                if np.array_equal(padded[source, top : top + 8, left : left + 8][:, ::flip], image)
            ]
            assert matches
            seen.update(matches)  # a symmetric crop matches in two ways
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {flip for _, _, flip in seen} == {1, -1}


def test_order_is_determined_by_seed_and_epoch():
    _, _, table = images()

    def labels(seed, epoch):
        return torch.cat(
            [y for _, y in InMemoryDataLoader(table, torch.arange(50), 16, seed=seed, epoch=lambda: epoch)]
        ).tolist()

    assert labels(1, 0) == labels(1, 0)
    assert labels(1, 0) != labels(1, 1)
    assert labels(1, 0) != labels(2, 0)
    assert sorted(labels(1, 0)) == sorted(labels(2, 7))


@pytest.mark.parametrize("count, size", [(50, 32), (33, 32), (64, 32), (3, 32), (50, 50)])
@pytest.mark.parametrize("world", [1, 2])
def test_ranks_see_every_image_once_per_epoch(count, size, world):
    x = torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 2, 2, 1)
    table = ImageTable.from_images(x, torch.arange(count), [0.0], [1.0], torch.device("cpu"))
    shares = [
        list(InMemoryDataLoader(table, torch.arange(count), size, seed=0, rank=r, world_size=world))
        for r in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = sorted(label for share in shares for _, y in share for label in y.tolist())
    assert seen == list(range(count))
    assert len(shares[0]) == len(InMemoryDataLoader(table, torch.arange(count), size, world_size=world))
    assert min(len(y) for share in shares for _, y in share) >= min(2, count // world)


@pytest.mark.parametrize("count, batch_size, sizes", [
    (100, 48, [48, 52]), (102, 48, [48, 48, 6]), (101, 48, [48, 53]), (5, 4, [5]), (6, 4, [4, 2]), (3, 4, [3]),
])  # fmt: skip
def test_a_last_batch_below_an_eighth_is_merged(count, batch_size, sizes):
    plan = EpochPlan(torch.arange(count), batch_size, (8, 8))
    assert plan.batch_sizes == sizes and plan.world_size == 1
    assert smallest_batch(count, batch_size) == min(sizes) and batches_in(count, batch_size) == len(sizes)


def test_global_batches_do_not_depend_on_the_number_of_ranks():
    _, _, table = images()
    whole = [y for _, y in InMemoryDataLoader(table, torch.arange(50), 16, seed=5)]
    halves = [
        [y for _, y in InMemoryDataLoader(table, torch.arange(50), 16, seed=5, rank=r, world_size=2)] for r in (0, 1)
    ]
    for one, even, odd in zip(whole, *halves, strict=True):
        assert one[0::2].equal(even) and one[1::2].equal(odd)


@pytest.mark.parametrize("second, taken", [([1], "takes all training images of classes [1]"), ([1] * 20, None)])
def test_a_class_that_validation_takes_whole_is_named(caplog, second, taken):
    labels = torch.tensor([0] * 20 + second)
    pixels = torch.zeros(len(labels), 8, 8, 1, dtype=torch.uint8)
    settings = planned("dataset=digits", "dataset.validation=0.5").settings.dataset
    seed = next(s for s in range(99) if len(labels) - 1 in train_validation_split(len(labels), 0.5, s)[1])
    module = ImageDataModule(Arrays(pixels, labels, pixels, labels), settings, seed)
    module.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1)
    with caplog.at_level("WARNING"):
        module.setup("fit")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("ersparse")]
    assert (taken in told[0]) if taken else not told
