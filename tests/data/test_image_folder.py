"""Images in a folder per class: what is read, how it is decoded and split, and errors for invalid folders."""

import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, read
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from ersparse import load_images
from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build
from ersparse.config.options import with_defaults
from ersparse.data import digits, folder_decoder, image_cache, image_files, image_folder
from ersparse.data.folder_decoder import FolderDecoder
from ersparse.data.image_files import PixelFormat, decode
from ersparse.data.load import load_arrays
from ersparse.errors import UserError
from ersparse.storage.atomic import write_json

SHAPES = [(24, 16), (16, 24), (16, 16), (40, 17), (9, 30)]  # width, height


@pytest.fixture(autouse=True)
def no_earlier_listing(tmp_path, monkeypatch):
    """Nothing is remembered from another test, and the cache in the home folder is this test's own."""
    image_folder.recent_listing.forget()
    monkeypatch.setattr(image_folder.recent_listing, "seconds", -1.0)
    monkeypatch.setattr(image_cache, "HOME", str(tmp_path / "home"))


def picture(seed, size=(20, 16), mode="RGB"):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def folder(root, parts=("train", "test"), classes=("cat", "dog"), count=4, suffix=".png", mode="RGB"):
    """Write `count` images of each class in each part; a part "" is the root itself."""
    for p, part in enumerate(parts):
        for c, name in enumerate(classes):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for n in range(count):
                picture(100 * p + 10 * c + n, SHAPES[n % 5], mode).save(root / part / name / f"{n}{suffix}")
    return root


def settings(root, **keys):
    """Return the settings of dataset=image_folder, as a command line composes them."""
    values = with_defaults("dataset", "image_folder") | {"root": str(root), "image_size": 8} | keys
    return build(DatasetSettings, values, "dataset.")


def load(root, **keys):
    return load_arrays(settings(root, **keys))


def error_of(root, **keys):
    """Return the message of the error, which is one line."""
    with pytest.raises(UserError) as error:
        load(root, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_images_match_torchvision(tmp_path):
    data = load(folder(tmp_path))
    transform = Compose([Resize(8, InterpolationMode.BILINEAR, antialias=True), CenterCrop(8)])
    for part in ("train", "test"):
        files = sorted((tmp_path / part).rglob("*.png"))
        expected = [np.asarray(transform(Image.open(path).convert("RGB"))) for path in files]
        assert np.array_equal(getattr(data, f"x_{part}"), expected)
        assert getattr(data, f"y_{part}").tolist() == [0] * 4 + [1] * 4


def test_what_is_null_is_read_from_the_images(tmp_path):
    found = settings(folder(tmp_path, classes=("a", "b", "c")))
    pixels = load(tmp_path).x_train.double() / 255
    assert (found.num_classes, found.channels, found.images) == (3, 3, (12, 12))
    assert found.mean == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=6e-4)
    assert found.std == pytest.approx(pixels.std((0, 1, 2), correction=0).tolist(), abs=6e-4)
    assert len(found.own_keys()["digest"]) == 16


def test_values_that_are_given_stay(tmp_path):
    given = {"num_classes": 7, "channels": 1, "mean": [0.25], "std": [0.5]}
    found = settings(folder(tmp_path), **given)
    assert {key: getattr(found, key) for key in given} == given
    assert not (tmp_path / ".ersparse").exists()  # nothing had to be decoded
    assert load(tmp_path, **given).x_train.shape == (8, 8, 8, 1)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_gray_images_have_one_channel(tmp_path, mode):
    found = settings(folder(tmp_path, mode=mode))
    assert found.channels == len(found.mean) == 1
    picture(5).save(tmp_path / "test/dog/colours.png")
    assert settings(tmp_path).channels == 3


@pytest.mark.parametrize(
    "suffix", [".png", ".bmp", ".webp", ".jpg", ".JPEG", ".PNG", ".tif", ".TIFF", ".gif", ".ppm", ".avif"]
)
def test_formats_match_pillow(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    picture(1, (8, 8)).save(path)
    with Image.open(path) as image:
        assert np.array_equal(decode(path, PixelFormat((8, 8), 3)), np.asarray(image.convert("RGB")))


def test_cmyk_palette_and_transparent_images_are_converted(tmp_path):
    for mode, suffix in (("CMYK", "jpg"), ("P", "png"), ("RGBA", "png"), ("LA", "png")):
        path = tmp_path / f"{mode}.{suffix}"
        picture(1, (8, 8)).convert(mode).save(path)
        with Image.open(path) as image:
            assert image.mode == mode
            assert np.array_equal(decode(path, PixelFormat((8, 8), 3)), np.asarray(image.convert("RGB"))), mode


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_rotated_as_exif_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(1, (8, 8)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode(tmp_path / "a.png", PixelFormat((8, 8), 3)), expected)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.tif"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, name):
    frames = [picture(number, (8, 8)).quantize(16).convert("RGB") for number in range(3)]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(decode(tmp_path / name, PixelFormat((8, 8), 3)), np.asarray(frames[0]))


def test_gray_values_of_16_bits_are_scaled(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert image_files.is_gray(tmp_path / "a.png")
    assert np.abs(decode(tmp_path / "a.png", PixelFormat((8, 8), 1))[..., 0] - values / 257).max() <= 0.51


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2), (8, 9)])
def test_images_smaller_than_the_size_are_enlarged(tmp_path, size):
    picture(1, size).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", PixelFormat((8, 8), 3)).shape == (8, 8, 3)


def linked_classes(root):
    for path in list(root.glob("*/*")):
        shutil.move(path, root.parent / f"{path.parent.name}-{path.name}")
        path.symlink_to(root.parent / f"{path.parent.name}-{path.name}")


def linked_images(root):
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        shutil.move(path, root.parent / str(number))
        path.symlink_to(root.parent / str(number))


def link_to_a_folder_above(root):
    (root / "train/cat/again").symlink_to(root)


def hidden_and_mac_files(root):
    for path in sorted(root.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    for name in (".ipynb_checkpoints", "__MACOSX", ".hidden"):
        (root / "train" / name).mkdir()
        picture(1).save(root / "train" / name / "a.png")
    (root / "train/.DS_Store").write_bytes(b"\0")


def empty_folders_and_other_files(root):
    (root / "train/empty").mkdir()
    (root / "test/empty").mkdir()
    (root / "train/cat/empty").mkdir()
    (root / "train/cat/notes.txt").write_text("notes")
    (root / "train/labels.csv").write_text("a,b")
    (root / "README.md").write_text("Pictures.")
    (root / "train/notes").mkdir()
    (root / "train/notes/Thumbs.db").write_bytes(b"\0")


def val_in_place_of_test(root):
    (root / "test").rename(root / "val")


def links_in_circles(root):
    for path, target in (("a", "b"), ("b", "a"), ("train/a", "a"), ("train/cat/a", "a"), ("test/dog/up", "..")):
        (root / path).symlink_to(target)


def folders_of_systems(root):
    for name in ("@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information", "#recycle"):
        for place in (root / "train", root / "train/cat", root):
            (place / name).mkdir()
            picture(1).save(place / name / "thumbnail.png")


def names_of_all_signs(root):
    for part in ("train", "test"):
        for name, other in (("cat", "a = 1, [x] {y}"), ("dog", "日本 ü'\"")):
            (root / part / name).rename(root / part / other)


def pipes_and_folders_named_as_images(root):
    os.mkfifo(root / "train/cat/pipe.png")
    (root / "train/cat/folder.png").mkdir()


def names_in_capitals(root):
    (root / "train").rename(root / "Train")
    (root / "test").rename(root / "Testing")


def unlabelled_test_images(root):
    (root / "test").rename(root / "val")
    (root / "test").mkdir()
    picture(1).save(root / "test/1.png")


def nested_images(root):
    for path in sorted(root.rglob("*.png")):
        (path.parent / "images").mkdir(exist_ok=True)
        path.rename(path.parent / "images" / path.name)


@pytest.mark.parametrize(
    "change",
    [linked_classes, linked_images, link_to_a_folder_above, hidden_and_mac_files, empty_folders_and_other_files,
     val_in_place_of_test, names_in_capitals, unlabelled_test_images, nested_images, links_in_circles,
     folders_of_systems, names_of_all_signs, pipes_and_folders_named_as_images],
)  # fmt: skip
def test_every_layout_gives_the_same_arrays(tmp_path, change):
    root = folder(tmp_path / "root")
    expected = load(root)
    change(root)
    found, settings_found = load(root), settings(root)
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert getattr(found, name).equal(getattr(expected, name))
    assert settings_found.num_classes == 2


def packed(root):
    shutil.make_archive(str(root / "images"), "zip", root / "train")
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "test")


def arrays_of(suffix):
    def change(root):
        for path in sorted(root.rglob("*.png")):
            path.rename(path.with_suffix(suffix))

    return change


def one_level_more(root):
    for part in ("train", "test"):
        (root / "birds").mkdir(exist_ok=True)
        (root / part).rename(root / "birds" / part)


def two_of_one_name(root):
    shutil.copytree(root / "train", root / "Train")


@pytest.mark.parametrize(
    "change, message",
    [
        (packed, "has neither train/ nor images in a folder per class; images.zip has to be unpacked"),
        (arrays_of(".npy"), ".npy files such as 0.npy are not read, but image files (.png, .jpg"),
        (arrays_of(".h5"), ".h5 files such as 0.h5 are not read"),
        (arrays_of(".heic"), ".heic files such as 0.heic are not read"),
        (one_level_more, "dataset.root=ROOT/birds, which has train/, may be meant"),
        (two_of_one_name, "has folders Train and train; must have one of them"),
    ],
)
def test_folders_of_something_else_are_explained(tmp_path, change, message):
    change(folder(tmp_path / "root"))
    found = error_of(tmp_path / "root", **({"test": 0.5} if change is one_level_more else {}))
    assert message.replace("ROOT", f"{tmp_path}/root") in found, found


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".zip", ".tar.gz"])
def test_a_file_as_root_is_explained(tmp_path, suffix):
    (tmp_path / f"images{suffix}").write_bytes(b"")
    found = error_of(tmp_path / f"images{suffix}")
    assert (
        f"images{suffix} has to be unpacked" in found or f"{suffix} files such as images{suffix} are not read" in found
    )


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[1m", "a\tb", "\udcff\n"])
def test_names_with_control_characters_are_one_line(tmp_path, name):
    folder(tmp_path)
    with open(os.fsencode(tmp_path) + b"/train/cat/" + os.fsencode(name) + b".png", "wb"):
        pass
    found = error_of(tmp_path)
    assert found.isprintable() and "train/cat/" in found
    assert len(load(tmp_path, damaged="skip").damaged) == 1
    os.rename(os.fsencode(tmp_path) + b"/train/cat", os.fsencode(tmp_path) + b"/train/" + os.fsencode(name))
    assert error_of(tmp_path).isprintable()


def test_images_of_other_formats_are_left_out_with_a_warning(tmp_path, caplog):
    folder(tmp_path)
    for name in ("train/cat/a.heic", "train/dog/a.HEIC", "test/dog/a.svg", "test/dog/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert len(load(tmp_path).y_train) == 8
    assert f"dataset.root={tmp_path}: images of these formats are not read: 2 .heic, 1 .svg" in caplog.text


def test_classes_are_numbered_in_the_order_of_their_names_as_texts(tmp_path):
    for label, name in enumerate(("1", "10", "2", "a")):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (8, 8), label).save(tmp_path / part / name / "0.png")
    data = load(tmp_path)
    assert data.y_train.tolist() == data.x_train[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_one_tree_is_split_by_seed_within_each_class(tmp_path):
    folder(tmp_path, parts=("",), count=10)
    first, other = load(tmp_path, test=0.3), load(tmp_path, test=0.3, split_seed=1)
    assert first.y_test.tolist() == [0] * 3 + [1] * 3 and len(first.y_train) == 14
    assert load(tmp_path, test=0.3).x_test.equal(first.x_test) and not other.x_test.equal(first.x_test)
    whole = {image.numpy().tobytes() for image in (*first.x_train, *first.x_test)}
    assert len(whole) == 20 and whole == {image.numpy().tobytes() for image in (*other.x_train, *other.x_test)}


def test_a_new_image_leaves_the_split_of_the_others(tmp_path):
    folder(tmp_path, parts=("",), count=10)
    before = {image.numpy().tobytes() for image in load(tmp_path, test=0.3).x_test}
    picture(99).save(tmp_path / "cat/99.png")
    assert len(before & {image.numpy().tobytes() for image in load(tmp_path, test=0.3).x_test}) >= 5


def test_training_images_without_test_images_are_split(tmp_path):
    data = load(folder(tmp_path, parts=("train",)), test=0.25)
    assert (len(data.y_train), len(data.y_test)) == (6, 2)


def test_a_class_may_be_called_train(tmp_path):
    assert (
        load(folder(tmp_path, parts=("",), classes=("boat", "train")), test=0.25).y_train.tolist() == [0] * 3 + [1] * 3
    )


def one_class(root):
    shutil.rmtree(root / "train/dog")
    shutil.rmtree(root / "test/dog")


def no_test(root):
    shutil.rmtree(root / "test")


def no_train(root):
    shutil.rmtree(root / "train")


def flat(root):
    for path in sorted(root.rglob("*.png")):
        path.rename(path.parents[1] / f"{path.parent.name}{path.name}")


@pytest.mark.parametrize(
    "change, keys, message",
    [
        (shutil.rmtree, {}, "dataset.root=ROOT: is not a folder; must hold train/ and test/ or val/"),
        (one_class, {}, r"dataset.root=ROOT: has images of 1 classes \(cat\); must have at least two"),
        (no_test, {}, r"dataset.root=ROOT: has no test/ or val/ with such folders; dataset.test must then lie in"),
        (no_train, {"test": 0.5}, "dataset.root=ROOT: has images of 1 classes|has images but no folders"),
        (flat, {"test": 0.5}, "dataset.root=ROOT: test/ has images but no folders; must have a folder per class"),
        (flat, {}, "dataset.root=ROOT: (has no train/ with a folder per class|test/ has images but no folders)"),
        (lambda root: shutil.rmtree(root / "test/dog"), {}, "test/ has no images of class dog, which train/ has"),
        (lambda root: shutil.rmtree(root / "train/dog"), {}, "has images of 1 classes"),
        (lambda root: (root / "test/dog").rename(root / "test/Dog"), {}, "has no images of class dog, which train/"),
        (lambda root: None, {"test": 0.5}, "dataset.test=0.5: must be null where dataset.root=ROOT has test images"),
        (no_test, {"test": 0.99}, "dataset.test=0.99: leaves no training image of class cat, which has 4 images"),
        (no_test, {"test": 1.5}, r"dataset.test.*=1.5: must lie in \(0, 1\)"),
        (lambda root: None, {"damaged": "ignore"}, "dataset.damaged=ignore: must be one of error, skip"),
        (lambda root: None, {"split_seed": -1}, r"dataset.split_seed=-1: must lie in \[0"),
        (lambda root: None, {"image_size": 0}, r"dataset.image_size=0: must lie in \[1, inf\)"),
        (lambda root: None, {"channels": "x"}, r"dataset.channels=x: must lie in \[1, inf\)"),
        (lambda root: None, {"mean": [0.1]}, r"dataset.mean=\[0.1\]: must have one number for each of"),
        (lambda root: None, {"validation": 0.99}, "dataset.validation=0.99: leaves 0 training"),
        (lambda root: None, {"image_size": 10**6, "in_memory": True}, "image_size=1000000: 16 images take 48000 GB"),
        (lambda root: None, {"colour": 1}, "dataset.colour=1: no such key"),
    ],
)  # fmt: skip
def test_invalid_folders_and_keys_raise(tmp_path, change, keys, message):
    root = folder(tmp_path / "root")
    change(root)
    found = error_of(root, **keys)
    assert re.search(message.replace("ROOT", str(root)), found), found
    assert not (tmp_path / "home").exists()


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "other content": lambda path: path.write_text("<html>404</html>"),
    "broken link": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_counted_and_named(tmp_path, caplog, damage):
    folder(tmp_path)
    for name in ("train/cat/1.png", "test/dog/2.png"):
        DAMAGES[damage](tmp_path / name)
    found = error_of(tmp_path)
    assert "dataset.damaged=error: train/cat/1.png in" in found and "2 of 16 images in all" in found
    assert not list(tmp_path.rglob("*.npz"))
    data = load(tmp_path, damaged="skip")
    assert data.y_train.tolist() == [0] * 3 + [1] * 4 and data.y_test.tolist() == [0] * 4 + [1] * 3
    assert "2 of 16 images cannot be decoded and are left out: train/cat/1.png, test/dog/2.png" in caplog.text


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder(tmp_path)
    opened = Image.open

    def refused(path, *rest):
        if Path(path).match("dog/0.png"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(image_files.Image, "open", refused)
    assert "train/dog/0.png in" in (found := error_of(tmp_path)) and "(Permission denied)" in found


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root, scan = folder(tmp_path), os.scandir

    def refused(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert f"{root}/train/dog cannot be read (Permission denied)" in error_of(root)


def test_a_class_of_damaged_images_only_is_named(tmp_path):
    folder(tmp_path)
    for path in (tmp_path / "test/dog").iterdir():
        path.write_bytes(b"")
    assert "dataset.damaged=skip: leaves no test images of class dog" in error_of(tmp_path, damaged="skip")


def test_a_name_that_is_not_unicode_can_be_reported(tmp_path):
    folder(tmp_path)
    path = os.fsencode(tmp_path) + b"/train/cat/\xff.png"
    with open(path, "wb"):
        pass
    error_of(tmp_path).encode()
    assert len(load(tmp_path, damaged="skip").y_train) == 8


def test_images_are_decoded_once_and_again_when_they_change(tmp_path, monkeypatch):
    first = load(folder(tmp_path))
    decoded = FolderDecoder.decode
    monkeypatch.setattr(FolderDecoder, "decode", lambda _: pytest.fail("decoded again"))
    assert load(tmp_path).x_train.equal(first.x_train)
    monkeypatch.setattr(FolderDecoder, "decode", decoded)
    picture(7, (8, 8)).save(tmp_path / "train/cat/0.png")
    changed = load(tmp_path)
    assert np.array_equal(changed.x_train[0], np.asarray(picture(7, (8, 8)))) and not changed.x_train.equal(
        first.x_train
    )


def test_the_digest_is_of_names_and_sizes(tmp_path):
    digest = settings(folder(tmp_path / "a")).own_keys()["digest"]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "b").rglob("*.png"):
        os.utime(path, (1, 1))
    assert settings(tmp_path / "b").own_keys()["digest"] == digest
    (tmp_path / "b/train/cat/0.png").rename(tmp_path / "b/train/cat/9.png")
    assert settings(tmp_path / "b").own_keys()["digest"] != digest


def test_images_that_changed_after_planning_raise(tmp_path):
    planned = settings(folder(tmp_path))
    load_arrays(planned)
    picture(3).save(tmp_path / "train/cat/new.png")
    with pytest.raises(UserError, match="dataset.digest=.* the images in dataset.root=.* are others") as error:
        load_arrays(planned)
    assert "\n" not in str(error.value)
    assert settings(tmp_path).own_keys()["digest"] in str(error.value)


def test_the_cache_is_in_the_home_folder_where_the_root_cannot_be_written(tmp_path):
    root = folder(tmp_path / "root")
    (root / ".ersparse").write_text("a file, so that no folder can be made")
    first = load(root)
    assert len(list((tmp_path / "home").glob("*.npz"))) == 1
    assert load(root).x_train.equal(first.x_train)
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "home").write_text("nor here")
    assert f"the decoded images cannot be written to {root}/.ersparse or {tmp_path}/home" in error_of(root)


@contextmanager
def files_of_at_most(size):
    """Writing more to a file fails half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 100, 2000])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path, size, in_memory):
    """Whatever part of a cache was written is gone, and the next command makes it."""
    root = folder(tmp_path / "root")
    size = size if in_memory else size // 100
    with files_of_at_most(size):
        found = error_of(root, in_memory=in_memory)
    what = "the decoded images" if in_memory else "the statistics of the images"
    assert found.startswith(f"dataset.root={root}: {what} cannot be written to {root}/.ersparse or {tmp_path}/home (")
    caches = [*root.glob(".ersparse/*"), *tmp_path.glob("home/*")]
    assert [path for path in caches if path.suffix != ".lock"] == []
    assert len(load(root, in_memory=in_memory).y_train) == 8


@pytest.mark.parametrize("left", [b"", b"PK", "a whole file of something else"])
def test_a_part_that_a_killed_run_left_is_not_taken_for_the_cache(tmp_path, left):
    expected = load(folder(tmp_path))
    (path,) = (tmp_path / ".ersparse").glob("*.npz")
    content = path.read_bytes() if isinstance(left, str) else left
    path.unlink()
    partial = path.with_suffix(".partial.npz")
    partial.write_bytes(content[:-1])
    assert load(tmp_path).x_train.equal(expected.x_train)
    assert path.exists() and not partial.exists()


def test_a_damaged_cache_is_named(tmp_path):
    load(folder(tmp_path))
    (path,) = (tmp_path / ".ersparse").glob("*.npz")
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}: damaged or not an npz file; remove it to have it made anew" in error_of(tmp_path)


def test_parallel_decoding_matches_serial_decoding(tmp_path, monkeypatch):
    first = load(folder(tmp_path))
    shutil.rmtree(tmp_path / ".ersparse")
    monkeypatch.setattr(image_files, "PARALLEL_THRESHOLD", 0)
    for module in (image_files, folder_decoder):
        monkeypatch.setattr(module, "CHUNK", 3)
    second = load(tmp_path)
    assert first.x_train.equal(second.x_train) and first.x_test.equal(second.x_test)


def test_several_runs_decode_once(tmp_path, monkeypatch):
    root, decoded, counted = folder(tmp_path), FolderDecoder.decode, []
    monkeypatch.setattr(FolderDecoder, "decode", lambda cache: counted.append(1) or decoded(cache))
    known = {"num_classes": 2, "channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
    found = []
    threads = [threading.Thread(target=lambda: found.append(load(root, **known))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1 and len(found) == 3


def test_planning_imports_no_torch():
    """Settings are built by commands that should start quickly; only loading imports torch."""
    code = "import sys; import ersparse.data.image_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


WORDS = ["dataset=image_folder", "dataset.image_size=8", *TINY, "dataset.batch_size=8"]


def test_a_run_records_what_was_read_and_resumes(launch, only_run, tmp_path):
    root = folder(tmp_path / "images")
    status, printed = launch(*WORDS, f"dataset.root={root}")
    assert status == 0, printed
    dataset = read(only_run())["config"]["dataset"]
    assert dataset["num_classes"] == 2 and len(dataset["digest"]) == 16 and len(dataset["mean"]) == 3
    status, printed = launch(*WORDS, f"dataset.root={root}")
    assert status == 0 and "already done" in printed
    assert len(load_images(only_run()).y_train) == 8
    picture(3).save(root / "train/cat/new.png")
    with pytest.raises(UserError, match="are others"):
        load_images(only_run())
    assert launch(*WORDS, f"dataset.root={root}")[0] == 0  # other images are another run
    assert len(list(tmp_path.glob("outputs/runs/*/s0/run.json"))) == 2


def test_changed_images_of_an_interrupted_run_are_refused(launch, only_run, tmp_path):
    root = folder(tmp_path / "images")
    assert launch(*WORDS, f"dataset.root={root}")[0] == 0
    run = only_run()
    write_json(run / "run.json", read(run) | {"state": "preempted"})
    picture(3).save(root / "train/cat/new.png")
    status, printed = launch(*WORDS, f"dataset.root={root}")
    assert status == 2 and printed.count("\n") == 1 and only_run() == run
    assert printed.startswith(f"dataset.root={root}: the images have changed since {run} was interrupted"), printed
    assert launch(*WORDS, f"dataset.root={root}", "dataset.batch_size=6")[0] == 0  # another run in any case
    assert launch(*WORDS, f"dataset.root={root}", "fresh=true")[0] == 0
    status, printed = launch(*WORDS, f"dataset.root={root}")
    assert status == 0 and "already done" in printed


def test_a_digest_that_is_given_pins_the_images(launch, tmp_path):
    root = folder(tmp_path / "images")
    digest = settings(root).own_keys()["digest"]
    words = [*WORDS, f"dataset.root={root}", "method=draw", "trainer.max_epochs=30"]
    assert launch(*words, f"dataset.digest={digest}")[0] == 0
    status, printed = launch(*words, "dataset.digest=0123456789abcdef")
    assert status == 2 and printed.startswith("dataset.digest=0123456789abcdef: the images in") and digest in printed


def test_a_copy_of_the_folder_is_the_same_run(launch, only_run, tmp_path):
    root = folder(tmp_path / "images")
    assert launch(*WORDS, "method=draw", "trainer.max_epochs=30", f"dataset.root={root}")[0] == 0
    shutil.copytree(root, tmp_path / "copy")
    status, printed = launch(*WORDS, "method=draw", "trainer.max_epochs=30", f"dataset.root={tmp_path}/copy")
    assert status == 0 and "already done" in printed and only_run()


@pytest.mark.slow
def test_a_sweep_and_a_dry_run_name_the_run_of_the_single_command(launch, tmp_path):
    words = [*WORDS, f"dataset.root={folder(tmp_path / 'images')}", "method=draw", "trainer.max_epochs=30"]
    status, dry = launch(*words, "dry_run=true")
    assert status == 0 and not (tmp_path / "outputs").exists()
    assert launch(*words, "-m", "seed=0,1", "hydra.launcher.slots=1")[0] == 0
    runs = {path.parent for path in tmp_path.glob("outputs/runs/*/s*/run.json")}
    assert len(runs) == 2 and len({run.parent for run in runs}) == 1
    assert str(min(runs)) in dry and "already done" in launch(*words)[1]


def test_an_invalid_folder_is_refused_before_anything_is_created(launch, tmp_path):
    root = folder(tmp_path / "images", classes=("cat",))
    for words in ((), ("dry_run=true",), ("-m", "seed=0,1"), ("method=draw",)):
        status, printed = launch(*WORDS, f"dataset.root={root}", *words)
        assert status == 2 and printed.startswith(f"dataset.root={root}: has images of 1 classes"), printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def digit_folder(root):
    """Write the digits as PNG files, in the split of dataset=digits."""
    data = digits.load(None, False)
    for part in ("train", "test"):
        images = zip(getattr(data, f"x_{part}"), getattr(data, f"y_{part}").tolist(), strict=True)
        for number, (image, label) in enumerate(images):
            path = root / part / str(label) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0].numpy()).save(path)
    return root


@pytest.mark.slow
def test_digits_as_files_are_the_digits(tmp_path, launch, only_run):
    """The pixels, the masks, and the accuracy within noise are those of dataset=digits."""
    root = digit_folder(tmp_path / "images")
    reference = digits.load(None, False)
    found = load(root)
    for part in ("train", "test"):
        order = getattr(reference, f"y_{part}").argsort(stable=True)
        assert getattr(found, f"x_{part}").equal(getattr(reference, f"x_{part}")[order])
    enlarged = load(root, image_size=16).x_test.int() - reference.resized(16).x_test[order].int()
    assert enlarged.abs().max() <= 1
    words = ["dataset=image_folder", f"dataset.root={root}", "dataset.image_size=16", "dataset.crop_padding=1",
             "dataset.flip=false", "dataset.batch_size=64", "trainer.max_epochs=4"]  # fmt: skip
    status, printed = launch(*words, f"paths.root={tmp_path}/files")
    assert status == 0, printed
    assert launch("trainer.max_epochs=4")[0] == 0
    (files,) = (tmp_path / "files").rglob("run.json")
    one, other = read(files.parent), read(only_run())
    assert one["mask_sha256"] == other["mask_sha256"] and one["layers"] == other["layers"]
    assert one["metrics"]["test/acc"] == pytest.approx(other["metrics"]["test/acc"], abs=0.05)


def test_warnings_of_large_and_odd_images_are_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    picture(1, (20, 16)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(tmp_path / "a.png", PixelFormat((8, 8), 3))
    picture(1, (40, 16)).save(tmp_path / "b.png")  # more than twice the limit
    with pytest.raises(Image.DecompressionBombError):
        decode(tmp_path / "b.png", PixelFormat((8, 8), 3))
