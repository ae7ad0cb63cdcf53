"""Tiny ImageNet in its official form: a zip file or its folder, with some grayscale images."""

import io
import os
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from tiny_imagenet_files import CLASSES, TOP, as_folder, as_zip, files, jpeg

from ersparse.data import jpeg as decoding
from ersparse.data import npz_cache, tiny_imagenet
from ersparse.errors import UserError


@pytest.mark.parametrize("kind", [as_zip, as_folder])
def test_images_and_labels_match_pillow(tmp_path, kind):
    data = tiny_imagenet.load(kind(tmp_path), False).check("tiny", 200, 3)
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1] and data.y_test.tolist() == [1, 0, 1, 0]
    names = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in sorted(CLASSES) for i in range(3)]
    for image, name in zip(data.x_train, names, strict=True):
        with Image.open(io.BytesIO(files()[name])) as expected:
            assert np.array_equal(image.numpy(), np.asarray(expected.convert("RGB"))), name
    assert all(data.x_train[i, ..., 0].equal(data.x_train[i, ..., 2]) for i in (2, 5)), (
        "grayscale images have three equal channels"
    )


def test_data_set_is_decoded_once(tmp_path, monkeypatch):
    first = tiny_imagenet.load(as_zip(tmp_path), False)
    monkeypatch.setattr(tiny_imagenet, "_decode", lambda _: pytest.fail("decoded again"))
    second = tiny_imagenet.load(tmp_path, False)
    assert all(getattr(first, name).equal(getattr(second, name)) for name in npz_cache.ARRAY_NAMES)
    (tmp_path / f"{TOP}.zip").unlink()
    assert tiny_imagenet.load(tmp_path, False).y_test.equal(first.y_test), "the cached file suffices"


def test_changed_zip_is_decoded_again(tmp_path):
    tiny_imagenet.load(as_zip(tmp_path), False)
    as_zip(tmp_path, **{"train/n01/images/n01_9.JPEG": jpeg(9)})
    assert len(tiny_imagenet.load(tmp_path, False).y_train) == 7


def test_other_zip_beside_a_cached_file_is_ignored(tmp_path):
    first = tiny_imagenet.load(as_zip(tmp_path), False)
    (tmp_path / f"{TOP}.zip").unlink()
    (tmp_path / "tiny-imagenet-c.zip").write_bytes(b"something else")
    assert tiny_imagenet.load(tmp_path, False).y_train.equal(first.y_train)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"wnids.txt": None}, "is not Tiny ImageNet, has no tiny-imagenet-200/wnids.txt"),
        ({"val/val_annotations.txt": None}, "is not Tiny ImageNet, has no tiny-imagenet-200/val/val_annotations.txt"),
        ({"wnids.txt": b""}, "is not Tiny ImageNet, has no training images"),
        ({"wnids.txt": b"n77"}, "is incomplete, has no training images of class n77"),
        ({"wnids.txt": b"\xff\xfe"}, "is incomplete, has no training images of class"),
        ({"val/images/val_2.JPEG": None}, "is incomplete, has no val/images/val_2.JPEG"),
        ({"val/val_annotations.txt": b"val_0.JPEG\tn03"}, "is incomplete, has no class n03"),
        ({"val/val_annotations.txt": b"val_0.JPEG"}, "has no validation images"),
        ({"val/images/val_1.JPEG": jpeg(1, side=32)}, "val_1.JPEG has 32x32 pixels, must have 64x64"),
        ({"val/images/val_1.JPEG": b"no image"}, "val_1.JPEG cannot be decoded"),
        ({"val/images/val_1.JPEG": jpeg(1)[:300]}, "val_1.JPEG cannot be decoded"),
        ({"val/images/val_1.JPEG": b""}, "val_1.JPEG cannot be decoded"),
    ],
)
def test_incomplete_or_damaged_archives_raise(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        tiny_imagenet.load(as_zip(tmp_path, **changes), False)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("*.npz"))


def test_parallel_decoding_matches_serial_decoding(tmp_path, monkeypatch):
    first = tiny_imagenet.load(as_zip(tmp_path), False)
    monkeypatch.setattr(decoding, "PARALLEL_THRESHOLD", 0)
    monkeypatch.setattr(tiny_imagenet, "CHUNK", 4)
    (tmp_path / "tiny_imagenet.npz").unlink()
    second = tiny_imagenet.load(tmp_path, False)
    assert first.x_train.equal(second.x_train) and first.x_test.equal(second.x_test)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_zip_raises(tmp_path, keep):
    path = as_zip(tmp_path) / f"{TOP}.zip"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match="damaged or truncated"):
        tiny_imagenet.load(tmp_path, False)


def test_flipped_bit_in_the_zip_raises(tmp_path):
    path = as_zip(tmp_path) / f"{TOP}.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"damaged or truncated \(Bad CRC-32"):
        tiny_imagenet.load(tmp_path, False)


def test_missing_archive_error_names_the_expected_files(tmp_path):
    with pytest.raises(UserError, match=f"no {TOP}.zip, {TOP}/ or tiny_imagenet.npz in {tmp_path}"):
        tiny_imagenet.load(tmp_path, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_folder_raises(tmp_path):
    as_zip(tmp_path).chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        tiny_imagenet.load(tmp_path, False)


def test_one_process_makes_the_file_and_the_others_wait(tmp_path, caplog):
    made = []
    caplog.set_level("INFO")

    def make():
        made.append(1)
        started.set()
        go.wait(10)
        return {name: np.zeros(3) for name in npz_cache.ARRAY_NAMES}

    started, go = threading.Event(), threading.Event()
    threads = [threading.Thread(target=npz_cache.make_once, args=(tmp_path / "x.npz", make)) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(10)
    until = time.monotonic() + 10
    while caplog.text.count("; waiting for it") < 2 and time.monotonic() < until:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join(10)
    assert made == [1] and not list(tmp_path.glob("*.partial*"))


def test_large_arrays_are_memory_mapped_and_verified(tmp_path, monkeypatch):
    arrays = {name: np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) for name in ("x_train", "x_test")}
    arrays |= {"y_train": np.arange(2), "y_test": np.arange(2)}
    np.savez(tmp_path / "a.npz", **arrays)
    monkeypatch.setattr(npz_cache, "MMAP_THRESHOLD", 20)
    mapped = npz_cache.read_npz(tmp_path / "a.npz")
    for name in npz_cache.ARRAY_NAMES:
        assert np.array_equal(getattr(mapped, name).numpy(), arrays[name])
    turned = {name: np.asfortranarray(array) for name, array in arrays.items()}
    np.savez(tmp_path / "f.npz", **turned)
    assert np.array_equal(npz_cache.read_npz(tmp_path / "f.npz").x_train.numpy(), arrays["x_train"])
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        start = archive.getinfo("x_test.npy").header_offset
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[start + 200] ^= 1
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(UserError, match="damaged or not an npz file .Bad CRC-32"):
        npz_cache.read_npz(tmp_path / "b.npz")


def test_image_table_shares_memory_with_the_mapped_file(tmp_path, monkeypatch):
    from ersparse.data.batches import ImageTable

    monkeypatch.setattr(npz_cache, "MMAP_THRESHOLD", 20)
    np.savez(
        tmp_path / "a.npz",
        x_train=np.zeros((4, 8, 8, 3), np.uint8),
        y_train=np.arange(4),
        x_test=np.zeros(4),
        y_test=np.arange(4),
    )
    data = npz_cache.read_npz(tmp_path / "a.npz")
    table = ImageTable.from_images(data.x_train, data.y_train, [0.5] * 3, [0.5] * 3, torch.device("cpu"))
    assert table.pixels.data_ptr() == data.x_train.data_ptr()
    address = data.x_train.data_ptr()
    regions = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "a.npz" in line]
    assert any(int(low, 16) <= address < int(high, 16) for low, high in (r[0].split("-") for r in regions))


def test_run_on_a_part_of_the_official_data_set(tmp_path, launch, only_run):
    """Train from a zip file, if the environment provides one."""
    original = Path(os.environ.get("ERSPARSE_TINY", ROOT.parent / "shared/data/tiny-imagenet-mini.zip"))
    if not original.exists():
        pytest.skip("ERSPARSE_TINY names no zip of Tiny ImageNet")
    (tmp_path / original.name).symlink_to(original)
    words = ["dataset=tiny_imagenet", f"dataset.root={tmp_path}", "model=resnet20", "model.width=0.5"]
    status, printed = launch(*words, "trainer.max_epochs=1", "dataset.batch_size=64")
    assert status == 0, printed
    assert (tmp_path / "tiny_imagenet.npz").exists() and (only_run() / "network.safetensors").exists()
