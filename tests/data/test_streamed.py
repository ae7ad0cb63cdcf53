"""Streamed images: the same as in memory, for every number of workers and ranks, and errors of one line."""

import io
import os
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY, kill_at, outcome, read, resumed_and_undisturbed, rows
from PIL import Image

from ersparse import load_images
from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build
from ersparse.config.options import with_defaults
from ersparse.data import crops, image_cache, image_folder, image_reader, placement, worker_pool
from ersparse.data.arrays import Arrays
from ersparse.data.augmentation import augmentation_of
from ersparse.data.batches import ImageTable, normalised_parts
from ersparse.data.epoch_plan import EpochPlan
from ersparse.data.file_table import FileTable, ImageFile, by_name
from ersparse.data.image_files import PixelFormat, decode
from ersparse.data.image_reader import ImageReader, Request
from ersparse.data.load import load_arrays
from ersparse.data.streamed import StreamedImages
from ersparse.data.streamed_batches import StreamedDataLoader
from ersparse.data.transforms import Choice, ImageTransform, transform_of
from ersparse.data.worker_pool import WorkerPool, worker_count
from ersparse.errors import RunFailed, UserError
from ersparse.runs.data_record import check_same_images

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_earlier_listing(tmp_path, monkeypatch):
    """Nothing is remembered from another test, and the cache in the home folder is this test's own."""
    image_folder.recent_listing.forget()
    monkeypatch.setattr(image_folder.recent_listing, "seconds", -1.0)
    monkeypatch.setattr(image_cache, "HOME", str(tmp_path / "home"))


def photographs(root, count=12, parts=("train", "test"), suffix="jpg"):
    """Write `count` images of mixed sizes and formats in each class and part."""
    for p, part in enumerate(parts):
        for c, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for n in range(count):
                random = np.random.default_rng(100 * p + 10 * c + n)
                size = (20 + 7 * (n % 3), 18 + 5 * (n % 4))
                pixels = Image.fromarray(random.integers(0, 256, (size[1] // 4, size[0] // 4, 3), np.uint8))
                mode = ("RGB", "RGB", "L", "CMYK")[n % 4]
                pixels.resize(size).convert(mode).save(root / part / name / f"{n}.{suffix}")
    return root


def settings(root, **keys):
    values = with_defaults("dataset", "image_folder") | {"root": str(root), "image_size": 16} | keys
    return build(DatasetSettings, values, "dataset.")


def both(root, **keys):
    """The images in memory and streamed."""
    found = load_arrays(settings(root, in_memory=True, **keys)), load_arrays(settings(root, in_memory=False, **keys))
    assert isinstance(found[0], Arrays) and isinstance(found[1], StreamedImages)
    return found


@pytest.mark.parametrize(
    "keys", [{}, {"image_size": [16, 12]}, {"image_size": [12, 16], "channels": 1}, {"resize": 20}]
)
def test_streamed_images_are_those_in_memory(tmp_path, keys):
    memory, streamed = both(photographs(tmp_path), **keys)
    for part in ("train", "test"):
        x = getattr(streamed, f"x_{part}")
        assert x[:].equal(getattr(memory, f"x_{part}")) and x.shape == getattr(memory, f"x_{part}").shape
        assert getattr(streamed, f"y_{part}").equal(getattr(memory, f"y_{part}"))
    assert streamed.x_test[3].equal(memory.x_test[3]) and streamed.x_test[[5, 1]].equal(memory.x_test[[5, 1]])
    assert streamed.x_test[torch.tensor([], dtype=torch.long)].shape == (0, *memory.x_test.shape[1:])


def test_what_is_read_from_the_images_is_the_same(tmp_path):
    root = photographs(tmp_path)
    (root / "train/cat/damaged.jpg").write_bytes(b"\xff\xd8")
    memory = settings(root, in_memory=True, damaged="skip")
    shutil.rmtree(root / ".ersparse")
    assert settings(root, in_memory=False, damaged="skip") == memory.model_copy(update={"in_memory": False})
    assert [path.suffix for path in root.glob(".ersparse/[!.]*")] == [".json"]  # pixels are not kept


def test_large_data_sets_are_streamed(tmp_path, monkeypatch):
    root = photographs(tmp_path)
    made = settings(root)
    assert not placement.is_streamed(made, (24, 24))
    pixels = 16 * 16 * 3 * 48
    monkeypatch.setattr(placement, "memory", lambda: 2 * pixels)
    assert not placement.is_streamed(made, (24, 24)) and placement.is_streamed(made, (25, 24))
    assert not placement.is_streamed(settings(root, in_memory=True), (25, 24))
    assert placement.is_streamed(settings(root, transforms="resized_crop"), (1, 1))


@pytest.mark.parametrize(
    "option, keys, message",
    [
        ("cifar10", {"in_memory": False}, "dataset.in_memory=false: must be auto or true with dataset=cifar10"),
        (
            "image_folder",
            {"in_memory": True, "transforms": "resized_crop"},
            "dataset.in_memory=true: must be auto or fa",
        ),
        ("image_folder", {"in_memory": 3}, "dataset.in_memory=3: must be auto, or true or false"),
        ("image_folder", {"workers": -1}, r"dataset.workers=-1: must be auto, or a whole number in \[0"),
        ("image_folder", {"workers": "many"}, "dataset.workers=many: must be auto"),
        ("image_folder", {"image_size": [3]}, r"dataset.image_size=\[3\]: must lie in .*, or be \[height, width\]"),
        ("image_folder", {"resize": 12}, "dataset.resize=12: must be at least dataset.image_size=16"),
        ("image_folder", {"num_classes": 3, "labels": 1}, "dataset.labels=1: no such key"),
    ],
)
def test_invalid_settings_are_one_line(tmp_path, option, keys, message):
    values = with_defaults("dataset", option) | {"root": str(photographs(tmp_path)), "image_size": 16} | keys
    with pytest.raises(UserError, match=message) as error:
        load_arrays(build(DatasetSettings, values, "dataset."))
    assert "\n" not in str(error.value)


def loader(root, workers, rank=0, world=1, epoch=0, pool=None, **keys):
    """A loader of training images, and its pool."""
    made = settings(root, in_memory=False, mean=[0.5] * 3, std=[0.2] * 3, channels=3, **keys)
    data = load_arrays(made)
    if pool is None:
        pool = WorkerPool(ImageReader((data.x_train, data.x_test), transform_of(made), 7), workers, 64)
    plan = EpochPlan(torch.arange(24), 10, made.size, 7, augmentation_of(made), None, rank, world)
    return StreamedDataLoader(pool, 0, data.y_train, plan, made.mean, made.std, CPU, lambda: epoch), pool


def test_batches_do_not_depend_on_workers_ranks_or_history(tmp_path):
    root, keys = photographs(tmp_path), {"transforms": ["resized_crop", "trivialaugment"]}
    reference = {epoch: list(loader(root, 0, epoch=epoch, **keys)[0]) for epoch in (0, 1)}
    assert not reference[0][0][0].equal(reference[1][0][0])
    for workers in (1, 2):
        pool, state = None, torch.get_rng_state()
        for epoch in (1, 0):
            made, pool = loader(root, workers, epoch=epoch, pool=pool, **keys)
            next(iter(made))  # an iteration that is given up
            for (x, y), (expected, labels) in zip(made, reference[epoch], strict=True):
                assert x.equal(expected) and y.equal(labels)
            for rank in (0, 1):
                made, pool = loader(root, workers, rank, 2, epoch, pool, **keys)
                for (x, y), (expected, labels) in zip(made, reference[epoch], strict=True):
                    assert x.equal(expected[rank::2]) and y.equal(labels[rank::2])
        assert torch.get_rng_state().equal(state)
        pool.close()


@pytest.mark.parametrize("keys", [{"crop_padding": 0}, {"crop_padding": 2}, {"transforms": "none"}])
def test_batches_are_those_in_memory(tmp_path, keys):
    """Without a border, images are flipped as a whole, and not gathered pixel by pixel."""
    made = settings(photographs(tmp_path), in_memory=True, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25], **keys)
    data = load_arrays(made)
    plan = EpochPlan(torch.arange(24), 10, made.size, 7, augmentation_of(made))
    table = ImageTable.from_images(data.x_train, data.y_train, made.mean, made.std, CPU)
    streamed = load_arrays(made.model_copy(update={"in_memory": False}))
    pool = WorkerPool(ImageReader((streamed.x_train, streamed.x_test), None, 7), 0, 0)
    found = StreamedDataLoader(pool, 0, data.y_train, plan, made.mean, made.std, CPU, lambda: 2)
    for batch, (x, y) in zip(plan.batches(2), found, strict=True):
        expected, labels = table.batch(batch.index, batch.rows, batch.columns)
        assert x.equal(expected) and y.equal(labels) and x.stride() == expected.stride()


@pytest.mark.parametrize("sizes", [[3, 2], [1], [4, 4, 1]])
@pytest.mark.parametrize("shape", [(6, 5, 3), (300, 301, 3), (9, 8, 1)])
def test_a_few_images_at_a_time_are_normalised_as_the_whole_batch(sizes, shape):
    """With none, all, or some of them mirrored; large images one by one."""
    random = torch.Generator().manual_seed(0)
    parts = [torch.randint(0, 256, (size, *shape), dtype=torch.uint8, generator=random) for size in sizes]
    mean, std = torch.tensor([[120.5, 99.0, 7.0], [60.0, 55.5, 3.0]])[:, : shape[2]]
    for which in (torch.zeros(sum(sizes)), torch.ones(sum(sizes)), torch.rand(sum(sizes), generator=random) - 0.5):
        images = torch.stack([x.flip(1) if w > 0 else x for x, w in zip(torch.cat(parts), which, strict=True)])
        expected = ((images.float() - mean) / std).permute(0, 3, 1, 2)
        found = normalised_parts(iter(parts), shape, which > 0, mean, std)
        assert found.equal(expected) and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("subsampling, quality", [(0, 95), (1, 75), (2, 88), (2, 30)])
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (100, 75)])
@pytest.mark.parametrize("mode, progressive", [("RGB", False), ("RGB", True), ("L", False), ("CMYK", False)])
def test_both_decoders_give_the_same_pixels(monkeypatch, size, subsampling, quality, mode, progressive):
    random = np.random.default_rng(size[0])
    pixels = Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8)).resize(size).convert(mode)
    content = io.BytesIO()
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    pixels.save(content, "JPEG", quality=quality, progressive=progressive, **options)
    for channels in (1, 3):
        box = (size[1] // 3, 0, size[1] - size[1] // 3, (size[0] + 1) // 2)
        found = crops.open_image(bytearray(content.getvalue()), channels)
        assert found.size == size[::-1]
        assert isinstance(found, crops.JpegImage) == ((mode, channels) in (("RGB", 3), ("L", 1)))
        part = found.read(box)
        with monkeypatch.context() as patch:
            patch.setattr(crops, "jpeg_decoder", lambda: None)  # as in a later version of torchvision
            assert part.equal(crops.open_image(bytearray(content.getvalue()), channels).read(box))


@pytest.mark.slow
def test_a_worker_that_dies_is_named(tmp_path):
    made, pool = loader(photographs(tmp_path), 2)
    batches = iter(made)
    next(batches)
    for process in pool.processes:
        os.kill(process.pid, signal.SIGKILL)
    made = loader(tmp_path, 2, pool=pool)[0]
    start = time.monotonic()
    with pytest.raises(RunFailed, match=r"dataset.workers=2: .* died: process \d+ ended by signal 9 \(SIGKILL\)"):
        list(made)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("status, said, raised", [
    (-9, "Connection reset by peer", "died: process 7 ended by signal 9"), (None, "another reason", None),
    (1, "exited unexpectedly", "died: process 7 ended with status 1"), (None, "exited unexpectedly", "has died"),
])  # fmt: skip
def test_the_death_of_a_worker_is_told_from_other_errors(monkeypatch, status, said, raised):
    """How it ended is known only once it has been waited for."""
    process = SimpleNamespace(pid=7, sentinel=object(), exitcode=None)
    waited = lambda sentinels, _: setattr(process, "exitcode", status) if sentinels == [process.sentinel] else None
    monkeypatch.setattr(worker_pool.connection, "wait", waited)
    pool = WorkerPool(ImageReader([torch.zeros(1, 2, 2, 3, dtype=torch.uint8)], None, 0), 1, 0)
    pool.processes = [process]

    def failing(_):
        yield from ()
        raise RuntimeError(said)

    pool._results = failing
    with pytest.raises(RunFailed if raised else RuntimeError, match=raised or said):
        list(pool.read([Request(0, [0], None)]))


@pytest.mark.parametrize("what", [
    "allocate shared memory(shm) for file </torch_1>: No space left on device (28)",
    "open shared memory object </torch_1> in read-write mode: Read-only file system (30)",
    "open shared memory object </torch_1> in read-write mode: No such file or directory (2)",
    "mmap 10 bytes from file </torch_1>: Cannot allocate memory (12)",
])  # fmt: skip
def test_shared_memory_without_room_is_one_line(tmp_path, monkeypatch, what):
    def full(size):
        raise RuntimeError(f"unable to {what}")

    made, _ = loader(photographs(tmp_path), 2)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    needed = (2 * 2 + 1) * image_reader.CHUNK * 16 * 16 * 3  # two requests of each worker, and one that is used
    with pytest.raises(RunFailed) as error:
        next(iter(made))
    reason = what.split(": ")[1]
    assert f"need {needed:,} bytes of /dev/shm ({reason}); dataset.workers=0 needs none" in str(error.value)
    assert "\n" not in str(error.value)


def test_images_in_shared_memory_stay_while_they_are_used():
    """A worker is always ahead of the one who uses them, and its memory is used again and again."""
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 2, 2, 3).contiguous()
    pool = WorkerPool(ImageReader([images], None, 0), 1, 0)
    for _ in range(2):
        for number, found in enumerate(pool.read(Request(0, [number], None) for number in range(40))):
            time.sleep(0.002)
            assert found.equal(images[number : number + 1])
    pool.close()


def test_a_crop_is_resized_alike_in_any_layout():
    """Contiguous or not, it is the result of the same crop plane by plane."""
    image = torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for size, box in (((32, 32), (5, 9, 70, 81)), ((40, 24), (0, 0, 90, 120)), ((64, 64), (30, 1, 20, 25))):
        crop = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
        planes = crop.permute(2, 0, 1).contiguous()[None]
        expected = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", antialias=True)[0]
        found = ImageTransform(size, (0.1, 1)).finish(crop, Choice(box, None))
        assert found.equal(expected.permute(1, 2, 0)) and found.is_contiguous()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_damaged_or_removed_is_named(tmp_path, workers):
    made, pool = loader(photographs(tmp_path), workers)
    (tmp_path / "train/dog/3.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(RunFailed, match="train/dog/3.jpg cannot be decoded .* by dataset.damaged=skip") as error:
        list(made)
    assert "\n" not in str(error.value)
    (tmp_path / "train/dog/3.jpg").unlink()
    with pytest.raises(RunFailed, match="train/dog/3.jpg cannot be decoded .No such file or directory"):
        list(made)
    pool.close()


@pytest.mark.slow
def test_damaged_images_are_left_out_of_both(tmp_path, caplog):
    root = photographs(tmp_path)
    for name in ("train/dog/3.jpg", "test/cat/0.jpg"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    memory, streamed = both(root, damaged="skip")
    assert streamed.x_train[:].equal(memory.x_train) and streamed.y_test.equal(memory.y_test)
    assert list(streamed.damaged) == list(memory.damaged) == ["train/dog/3.jpg", "test/cat/0.jpg"]
    assert caplog.text.count("2 of 48 images cannot be decoded and are left out") == 2


def test_a_file_table_holds_what_it_was_made_of():
    files = [ImageFile(name, n % 3, 10 * n, 2**62 + n) for n, name in enumerate(["b/é", "a", "c/\udcff", "", "b/d"])]
    table = FileTable.of(files)
    assert list(table) == files and table[-1] == files[-1] and table[1:3] == files[1:3] and len(table) == 5
    assert table.labels.tolist() == [0, 1, 2, 0, 1] and table.total_size == 100
    assert list(table.without(["a"])) == files[:1] + files[2:]
    with pytest.raises(IndexError):
        table[5]
    tables = (FileTable.of(files[:2]), FileTable.of(files[2:]))
    assert [file.name for file in by_name(tables)] == sorted(file.name for file in files)
    assert list(FileTable.of([])) == [] and list(by_name((FileTable.of([]),))) == []


@pytest.mark.parametrize("size, resize", [((16, 12), None), ((12, 16), None), ((9, 30), None), ((16, 12), 20)])
@pytest.mark.parametrize("shape", [(40, 17), (17, 40), (16, 12), (5, 6), (1, 300)])
def test_pairs_cover_the_size_and_keep_the_centre(tmp_path, size, resize, shape):
    """A bright square in the centre stays there, and its ratio is kept."""
    from torchvision.transforms import v2

    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.png", PixelFormat(size, 3, resize))
    scale = resize / min(shape) if resize else max(size[0] / shape[0], size[1] / shape[1])
    whole = [max(int(round(length * scale, 6)), least) for length, least in zip(shape, size, strict=True)]
    expected = v2.CenterCrop(size)(v2.Resize(whole)(Image.fromarray(pixels)))
    assert np.array_equal(found, np.asarray(expected))


def test_workers_follow_from_cores_ranks_and_device(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(24)))
    assert worker_count(3, 2, True) == 3 and worker_count(0, 1, True) == 0
    assert worker_count("auto", 1, True) == worker_pool.MOST_WORKERS
    assert worker_count("auto", 2, True) == 12 and worker_count("auto", 2, False) == 6
    assert worker_count("auto", 48, False) == 1


WORDS = ["dataset=image_folder", "dataset.image_size=16", *TINY, "dataset.batch_size=10", "dataset.validation=0.2"]


def test_runs_in_memory_and_streamed_agree_bit_for_bit(launch, tmp_path):
    """With crops and flips, which are drawn and carried out in the same way."""
    root, found = photographs(tmp_path / "images"), []
    for number, words in enumerate((["dataset.in_memory=true"], ["dataset.in_memory=false", "dataset.workers=0"])):
        where = f"paths.root={tmp_path}/{number}"
        status, printed = launch(*WORDS, f"dataset.root={root}", *words, where, "sparsity=snip", "sparsity.level=0.5")
        assert status == 0, printed
        (path,) = (tmp_path / str(number)).rglob("run.json")
        found.append((path.parent, outcome(path.parent)))
    (one, memory), (other, streamed) = found
    assert memory == streamed and one.parts[-2:] == other.parts[-2:]
    assert read(one)["data"]["in_memory"] and not read(other)["data"]["in_memory"]
    assert load_images(other).x_test[:].equal(load_images(one).x_test)


KILLED = ["dataset=image_folder", "dataset.image_size=16", "dataset.batch_size=12", "dataset.mixup=0.2",
          "dataset.transforms=[resized_crop,randaugment]", "model.width=0.25", "trainer.max_epochs=6"]  # fmt: skip


@pytest.mark.slow
def test_a_run_killed_with_two_workers_and_resumed_with_one_is_that_without_workers(process, tmp_path):
    words = [*KILLED, f"dataset.root={photographs(tmp_path / 'images')}", "method=rigl", "dataset.workers=0"]
    kill_at(process, tmp_path, [*words, "dataset.workers=2"], "epoch00002")
    (_, killed), (_, undisturbed) = resumed_and_undisturbed(tmp_path, words, ["dataset.workers=1"])
    assert outcome(killed) == outcome(undisturbed)
    assert not read(killed)["data"]["in_memory"] and read(undisturbed)["data"]["workers"] == 0


@pytest.mark.slow
def test_two_ranks_resume_bit_for_bit_and_train_as_one_does(process, launch, tmp_path):
    """The sums over ranks are rounded otherwise than those of one rank, which grows from one epoch to the next."""
    alone = [*KILLED, f"dataset.root={photographs(tmp_path / 'images')}", "dataset.workers=0"]
    alone.append("model.sync_batchnorm=true")
    words = [*alone, "trainer.devices=2"]
    kill_at(process, tmp_path, [*words, "dataset.workers=1"], "epoch00001")
    (_, killed), (_, undisturbed) = resumed_and_undisturbed(tmp_path, words)
    assert outcome(killed) == outcome(undisturbed)
    status, printed = launch(*alone, f"paths.root={tmp_path}/alone")
    assert status == 0, printed
    one = next((tmp_path / "alone").rglob("run.json")).parent
    assert one.parts[-2:] == killed.parts[-2:] and read(one)["mask_sha256"] == read(killed)["mask_sha256"]
    losses = [float(rows(folder)[0]["train/loss"]) for folder in (one, killed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


class SimpleStreamed(StreamedImages):
    """A data set of which nothing but the digest is looked at."""

    root = "somewhere"
    own_keys = staticmethod(dict)

    def __init__(self, digest):
        object.__setattr__(self, "digest", digest)


def test_changed_files_of_an_interrupted_streamed_run_are_refused():
    """Where the digest is not part of the hash, as for dataset=imagenet."""
    images = SimpleStreamed("b")
    with pytest.raises(UserError, match="the images have changed since .*, their digest was a and is b; must") as error:
        check_same_images(images, {"data": {"digest": "a"}}, SimpleNamespace(fresh=False, dataset=images))
    assert "\n" not in str(error.value)
    for record in (None, {}, {"data": {"digest": "b"}}, {"data": {"digest": None}}):
        check_same_images(images, record, SimpleNamespace(fresh=False))
    check_same_images(images, {"data": {"digest": "a"}}, SimpleNamespace(fresh=True))
