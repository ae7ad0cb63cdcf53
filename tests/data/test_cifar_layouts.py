"""CIFAR as torchvision leaves it on disk: read without a download, also where nothing can be written."""

import hashlib
import pickle
import shutil
import tarfile

import numpy as np
import pytest
from torchvision import datasets

from ersparse.data import cifar, npz_cache
from ersparse.errors import UserError

FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
LOADERS = {"cifar10": cifar.load_cifar10, "cifar100": cifar.load_cifar100}
CLASSES = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def write(path, content):
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def official(request, tmp_path, monkeypatch):
    """Return the name of the data set and a folder with torchvision's files, 20 images each, whose sums are known."""
    name, random = request.param, np.random.default_rng(0)
    root, dataset = tmp_path / "root", CLASSES[name]
    folder, key = root / FOLDERS[name], {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    folder.mkdir(parents=True)
    for part in ("train_list", "test_list"):
        sums = []
        for file, _ in getattr(dataset, part):
            content = {"data": random.integers(0, 256, (20, 3072), np.uint8), key: [n % 10 for n in range(20)]}
            sums.append([file, write(folder / file, content)])
        monkeypatch.setattr(dataset, part, sums)
    names = {dataset.meta["key"]: list("abcdefghij")}
    meta = dataset.meta | {"md5": write(folder / dataset.meta["filename"], names)}
    monkeypatch.setattr(dataset, "meta", meta)
    return name, root


def expected(name, root):
    """Return the training images as torchvision reads them."""
    return CLASSES[name](str(root), train=True).data


def check(name, found, images):
    assert np.array_equal(found.check(name, 10, 3).x_train.numpy(), images)
    assert found.y_test.tolist() == [n % 10 for n in range(20)]


@pytest.mark.parametrize("download", [True, False])
def test_the_folder_of_torchvision_is_read_without_a_download(official, download):
    name, root = official
    images = expected(name, root)
    check(name, LOADERS[name](root, download), images)
    assert (root / f"{name}.npz").exists()
    shutil.rmtree(root / FOLDERS[name])
    check(name, LOADERS[name](root, False), images)  # from the npz file


@pytest.mark.parametrize("number, reason", [(30, "Read-only file system"), (28, "No space left on device"),
                                            (13, "Permission denied")])  # fmt: skip
def test_a_root_that_cannot_be_written_is_read_each_time(official, monkeypatch, caplog, number, reason):
    def fails(*_, **__):
        raise OSError(number, reason)

    name, root = official
    caplog.set_level("INFO")
    monkeypatch.setattr(npz_cache.np, "savez", fails)
    for _ in range(2):
        check(name, LOADERS[name](root, False), expected(name, root))
    assert caplog.text.count(f"cannot be written ({reason}); images are read from {root} each time") == 2
    assert not list(root.glob("*.npz"))


def test_the_root_can_be_the_folder_itself(official):
    name, root = official
    check(name, LOADERS[name](root / FOLDERS[name], False), expected(name, root))


def test_a_link_to_the_folder_is_followed(official, tmp_path):
    name, root = official
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FOLDERS[name]).symlink_to(root / FOLDERS[name])
    check(name, LOADERS[name](tmp_path / "other", False), expected(name, root))


def test_the_archive_that_was_downloaded_before_is_unpacked_elsewhere(official, monkeypatch):
    name, root = official
    images, dataset = expected(name, root), CLASSES[name]
    with tarfile.open(root / dataset.filename, "w:gz") as archive:
        archive.add(root / FOLDERS[name], FOLDERS[name])
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5((root / dataset.filename).read_bytes()).hexdigest())
    shutil.rmtree(root / FOLDERS[name])
    check(name, LOADERS[name](root, False), images)
    assert not (root / FOLDERS[name]).exists()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_an_incomplete_folder_is_named(official, damage):
    name, root = official
    damage(root / FOLDERS[name] / CLASSES[name].test_list[0][0])
    with pytest.raises(UserError, match=f"{FOLDERS[name]} is incomplete or damaged; put {name}.npz there") as error:
        LOADERS[name](root, False)
    assert "\n" not in str(error.value) and not list(root.glob("*.npz"))


def test_a_truncated_archive_is_named_and_kept(official, monkeypatch):
    name, root = official
    shutil.rmtree(root / FOLDERS[name])
    archive = root / CLASSES[name].filename
    archive.write_bytes(b"half")
    with pytest.raises(UserError, match=f"{archive.name} is incomplete or damaged; put"):
        LOADERS[name](root, False)
    monkeypatch.setattr(cifar, "_download", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
    with pytest.raises(UserError, match=r"incomplete or damaged, and no download \(no route to host\)"):
        LOADERS[name](root, True)
    assert archive.read_bytes() == b"half"
