"""Augmentation: distributions, independence of ranks and history, and torchvision as the reference.

Statistical tests have a probability of error of 1e-6 each; their seeds are fixed.
"""

import hashlib

import numpy as np
import pytest
import torch
from conftest import TINY, read
from PIL import Image
from scipy import stats
from torchvision import transforms as v1
from torchvision.transforms import v2

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build
from ersparse.config.options import with_defaults
from ersparse.data.augmentation import Augmentation, augmentation_of
from ersparse.data.batches import ImageTable, InMemoryDataLoader
from ersparse.data.epoch_plan import EpochPlan
from ersparse.data.image_reader import ImageReader
from ersparse.data.mixing import Mixing, _partners, mixing_of
from ersparse.data.streamed_batches import StreamedDataLoader
from ersparse.data.transforms import ImageTransform, image_seed, seeded, transform_of
from ersparse.data.worker_pool import WorkerPool
from ersparse.errors import UserError

ODDS = 1e-6
CPU = torch.device("cpu")


def settings(**keys):
    return build(DatasetSettings, with_defaults("dataset", "cifar10") | {"root": "data"} | keys, "dataset.")


def pixels(count=24, size=(12, 10), channels=3):
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, *size, channels), dtype=torch.uint8, generator=random)


def positions(count=20_000, length=32, **keys):
    random = torch.Generator().manual_seed(1)
    return augmentation_of(settings(**keys)).source_positions(count, (length, length), random)


def flips(columns):
    return int((columns[:, 0] > columns[:, 1]).sum())


def test_half_of_the_images_are_flipped():
    _, columns = positions()
    assert stats.binomtest(flips(columns), 20_000, 0.5).pvalue > ODDS
    assert stats.binomtest(flips(columns), 20_000, 0.4).pvalue < ODDS  # the test can tell them apart


def test_shifts_are_uniform_and_independent_of_flips_and_one_another():
    rows, columns = positions()
    vertical, horizontal = rows[:, 0] + 4, columns.amin(1) + 4
    flipped = (columns[:, 0] > columns[:, 1]).long()
    counts = torch.bincount((vertical * 9 + horizontal) * 2 + flipped, minlength=9 * 9 * 2)
    assert len(counts) == 9 * 9 * 2
    assert stats.chisquare(counts.numpy()).pvalue > ODDS


def test_reflected_borders_of_images_that_are_no_squares_match_numpy():
    found = Augmentation(3, "reflect").source_positions(200, (12, 5), torch.Generator().manual_seed(0))
    for positions, length in zip(found, (12, 5), strict=True):
        padded = np.pad(np.arange(length), 3, mode="reflect")
        crops = {tuple(padded[start : start + length]) for start in range(7)}
        assert {tuple(row) for row in positions.tolist()} == crops


@pytest.mark.parametrize(
    "keys, shifted, flipped",
    [
        ({"transforms": "none"}, False, False),
        ({"augment": False, "transforms": "randaugment"}, False, False),
        ({"transforms": "resized_crop"}, False, True),
        ({"transforms": "trivialaugment"}, True, True),
        ({"transforms": ["none", "randaugment"]}, False, False),
        ({"flip": False}, True, False),
        ({"crop_padding": 0}, False, True),
    ],
)
def test_options_decide_about_crops_and_flips(keys, shifted, flipped):
    rows, columns = positions(100, **keys)
    assert bool((rows != torch.arange(32)).any()) == shifted
    assert bool(flips(columns)) == flipped


GOLDEN = {  # of version 0.1.0
    ("zero", True): "c398683373c8625b",
    ("reflect", True): "ec30ee38428bde21",
    ("zero", False): "5d6d7ad26cc83012",
}


@pytest.mark.parametrize("mode, flip", GOLDEN)
def test_crops_of_existing_runs_do_not_change(mode, flip):
    random = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (50, 8, 8, 3), dtype=torch.uint8, generator=random)
    table, found = ImageTable.from_images(x, torch.arange(50) % 10, [0.0] * 3, [1 / 255] * 3, CPU), hashlib.sha256()
    for epoch in range(3):
        for images, labels in InMemoryDataLoader(
            table, torch.arange(50), 16, 3, Augmentation(2, mode, flip), epoch=lambda e=epoch: e
        ):
            found.update(images.round().byte().contiguous().numpy().tobytes() + labels.numpy().tobytes())
    assert found.hexdigest()[:16] == GOLDEN[mode, flip]


def crop_of(seed, scale):
    """The box of a resized crop, as fractions: read from an image whose pixels are their coordinates."""
    ramp = torch.arange(240, dtype=torch.uint8)
    image = torch.stack([ramp[:, None].expand(240, 240), ramp[None].expand(240, 240)], 2)
    found = ImageTransform((8, 8), scale)(image, seed).double()
    slope = [(found[6, 4, 0] - found[1, 4, 0]) / 5 * 8 / 240, (found[4, 6, 1] - found[4, 1, 1]) / 5 * 8 / 240]
    centre = [found[3:5, 4, 0].mean() / 239, found[4, 3:5, 1].mean() / 239]
    return [float(value) for value in (*slope, *centre)]


def test_resized_crops_have_uniform_areas_and_log_uniform_ratios_in_uniform_places():
    boxes = np.array([crop_of(image_seed(0, 0, number), (0.1, 0.5)) for number in range(1500)])
    height, width, middle, centre = boxes.T
    for values, distribution in (
        (height * width, stats.uniform(0.1, 0.4)),
        (np.log(width / height), stats.uniform(np.log(3 / 4), np.log(16 / 9))),
        ((middle - height / 2) / (1 - height), stats.uniform(0, 1)),
        ((centre - width / 2) / (1 - width), stats.uniform(0, 1)),
    ):
        assert stats.kstest(values, distribution.cdf).pvalue > ODDS
    assert stats.kstest(height * width, stats.uniform(0.08, 0.52).cdf).pvalue < ODDS  # another range is recognised


@pytest.mark.parametrize("channels", [1, 3])
def test_resized_crops_match_torchvision(channels):
    image = pixels(1, (40, 30), channels)[0]
    for seed in range(20):
        with seeded(seed):
            expected = v1.RandomResizedCrop((9, 16), (0.08, 1.0))(image.permute(2, 0, 1)).permute(1, 2, 0)
        found = ImageTransform((9, 16), (0.08, 1.0))(image, seed)
        assert (found.int() - expected.int()).abs().max() <= 1  # torchvision computes in floats, and rounds once


@pytest.mark.parametrize(
    "policy, reference", [("randaugment", v2.RandAugment), ("trivialaugment", v2.TrivialAugmentWide)]
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_policies_match_torchvision(policy, reference, mode):
    image = pixels(1, (16, 16), 1 if mode == "L" else 3)[0]
    transform, seen = ImageTransform((16, 16), None, policy), set()
    for seed in range(30):
        with seeded(seed):
            expected = np.asarray(
                reference()(Image.fromarray(image.squeeze(2).numpy() if mode == "L" else image.numpy()))
            )
        found = transform(image, seed)
        assert np.array_equal(found.numpy().reshape(expected.shape), expected)
        seen.add(found.numpy().tobytes())
    assert len(seen) > 10


def test_the_seed_of_an_image_depends_on_seed_epoch_and_number_alone():
    seeds = {image_seed(s, e, n) for s in (0, 1, 2**62) for e in range(5) for n in range(200)}
    assert len(seeds) == 3 * 5 * 200
    assert image_seed(0, 1, 2) == 1535930435702422785  # never to change: resumed runs would see other images
    state = torch.get_rng_state()
    with seeded(3):
        torch.rand(5)
    assert torch.get_rng_state().equal(state)


def loader(keys, rank=0, world=1, epoch=0, size=10, count=24):
    """The training images of a data set of 12x10 pixels."""
    made, x = settings(num_classes=4, crop_padding=2, **keys), pixels(count)
    y, transform = torch.arange(count) % 4, transform_of(made)
    plan = EpochPlan(torch.arange(count), size, (12, 10), 5, augmentation_of(made), mixing_of(made), rank, world)
    if transform is None:
        table = ImageTable.from_images(x, y, made.mean, made.std, CPU)
        return InMemoryDataLoader(
            table, plan.index, size, 5, plan.augmentation, lambda: epoch, rank, world, plan.mixing
        )
    transform = ImageTransform((12, 10), transform.scale, transform.policy)
    pool = WorkerPool(ImageReader([x], transform, 5), 0, 0)
    return StreamedDataLoader(pool, 0, y, plan, made.mean, made.std, CPU, lambda: epoch)


AUGMENTED = [
    {},
    {"transforms": "resized_crop"},
    {"transforms": ["resized_crop", "trivialaugment"]},
    {"transforms": "randaugment", "mixup": 0.2},
    {"cutmix": 1.0},
    {"mixup": 0.2, "cutmix": 1.0},
]


@pytest.mark.parametrize("keys", AUGMENTED)
@pytest.mark.parametrize("world, size", [(2, 10), (2, 9), (3, 10)])
def test_images_do_not_depend_on_the_number_of_ranks(keys, world, size):
    whole = list(loader(keys, size=size))
    shares = [list(loader(keys, rank, world, size=size)) for rank in range(world)]
    for number, (x, y) in enumerate(whole):
        for rank in range(world):
            own = slice(rank, None, world)
            assert shares[rank][number][0].equal(x[own]) and shares[rank][number][1].equal(y[own])


@pytest.mark.parametrize("keys", AUGMENTED)
def test_epochs_differ_and_do_not_depend_on_earlier_ones(keys):
    def drawn(epoch):
        return torch.cat([x for x, _ in loader(keys, epoch=epoch)])

    later = drawn(3)
    torch.manual_seed(0)
    assert later.equal(drawn(3)) and not later.equal(drawn(2))


def test_mixup_and_cutmix_match_torchvision():
    """Torchvision mixes each image with the one before, which is the pairing here up to a rotation of the batch."""
    x, y = torch.rand(8, 3, 12, 10), torch.arange(8) % 4
    for mixing, reference in ((Mixing(0.4, 0.0, 4), v2.MixUp), (Mixing(0.0, 1.0, 4), v2.CutMix)):
        for number in range(10):
            mix, own = mixing.draw(0, 0, number, 8, (12, 10)), torch.arange(8)
            images, labels = mix.apply(x, y, own, 4)
            partner = mix.partners
            assert sorted(partner.tolist()) == list(range(8)) and (partner != own).all()
            params = {"lam": mix.weight, "labels": y, "batch_size": 8}
            if mix.box:
                top, bottom, left, right = mix.box
                params |= {"box": (left, top, right, bottom), "lam_adjusted": mix.weight}
            for position in range(8):  # as a batch of two: the image and its partner
                pair = [position, int(partner[position])]
                made = reference(num_classes=4)
                params |= {"labels": y[pair], "batch_size": 2}
                torch.testing.assert_close(made.transform(x[pair], params)[0], images[position])
                expected = made._mixup_label(y[pair], lam=mix.weight)[0]
                torch.testing.assert_close(labels[position], expected)


def test_partners_are_rotated_by_the_largest_power_of_two_up_to_half_the_batch():
    shifts = {count: (_partners(count) - torch.arange(count)) % count for count in (1, 2, 3, 5, 8, 9, 12, 16)}
    assert {count: shift.unique().tolist() for count, shift in shifts.items()} == {
        1: [0], 2: [1], 3: [1], 5: [2], 8: [4], 9: [4], 12: [4], 16: [8],
    }  # fmt: skip


def test_weights_of_mixup_follow_a_beta_distribution_and_boxes_that_of_cutmix():
    mixes = [Mixing(0.3, 0.0, 4).draw(0, 1, number, 8, (64, 64)) for number in range(2000)]
    assert stats.kstest([mix.weight for mix in mixes], stats.beta(0.3, 0.3).cdf).pvalue > ODDS
    assert stats.kstest([mix.weight for mix in mixes], stats.beta(0.4, 0.4).cdf).pvalue < ODDS
    both = [Mixing(0.3, 1.0, 4).draw(0, 1, number, 8, (64, 64)) for number in range(2000)]
    boxes = np.array([mix.box for mix in both if mix.box])
    assert stats.binomtest(len(boxes), 2000, 0.5).pvalue > ODDS
    inside = boxes[(boxes[:, [0, 2]] > 0).all(1) & (boxes[:, [1, 3]] < 64).all(1)]
    assert (inside[:, 1] - inside[:, 0] == inside[:, 3] - inside[:, 2]).all()  # squares, unless they are cut off
    centre = (boxes[:, 1] + boxes[:, 0]) / 2
    assert (
        boxes.min() == 0 and boxes.max() == 64 and stats.binomtest(int((centre < 32).sum()), len(boxes)).pvalue > ODDS
    )


@pytest.mark.parametrize(
    "given, found",
    [
        ("crop", "crop"),
        (["crop"], "crop"),
        (["crop", "randaugment"], "randaugment"),
        (["resized_crop"], "resized_crop"),
        (["resized_crop", "randaugment"], ["resized_crop", "randaugment"]),
        (["none"], "none"),
    ],
)
def test_transforms_have_one_form(given, found):
    assert settings(transforms=given).transforms == found


@pytest.mark.parametrize(
    "key, value",
    [
        ("transforms", "cutout"),
        ("transforms", []),
        ("transforms", ["randaugment", "crop"]),
        ("transforms", ["crop", "resized_crop"]),
        ("transforms", None),
        ("crop_scale", [0.0, 1.0]),
        ("crop_scale", [0.5, 0.2]),
        ("crop_scale", [0.5]),
        ("mixup", -0.1),
        ("cutmix", float("inf")),
    ],
)
def test_invalid_values_are_one_line(key, value):
    with pytest.raises(UserError, match=f"dataset.{key}") as error:
        settings(**{key: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["dataset.transforms=[resized_crop,randaugment]", "dataset.mixup=0.2", "dataset.cutmix=1", "method=rigl"],
        ["dataset.transforms=trivialaugment"],
        ["dataset.transforms=none", "dataset.mixup=0.2", "trainer.execution=sparse", "method=rigl"],
    ],
)
@pytest.mark.slow
def test_options_train_and_are_recorded(launch, only_run, words):
    status, printed = launch(*TINY, "sparsity.level=0.5", "scale=smoke", *words)
    assert status == 0, printed
    record = read(only_run())
    assert record["metrics"]["train/loss"] > 0 and 0 <= record["metrics"]["train/acc"] <= 1
    assert record["config"]["dataset"]["transforms"] != "crop"
