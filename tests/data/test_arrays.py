"""Data sets: shapes, types and contents, and errors for invalid files."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ersparse.data import cifar, digits
from ersparse.data.npz_cache import read_npz
from ersparse.errors import UserError


def arrays(**changes):
    made = {
        "x_train": np.zeros((20, 32, 32, 3), np.uint8),
        "y_train": np.arange(20) % 10,
        "x_test": np.zeros((5, 32, 32, 3), np.uint8),
        "y_test": np.arange(5),
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def save(folder, **changes):
    np.savez(folder / "cifar10.npz", **arrays(**changes))
    return folder


def load(folder, classes=10):
    return cifar.load_cifar10(folder, False).check("dataset=cifar10", classes, 3)


def test_digits_have_the_documented_sizes_and_statistics():
    data = digits.load(None, True)
    assert (len(data.y_train), len(data.y_test)) == (1437, 360)
    assert data.x_train.dtype == torch.uint8 and data.x_train.shape[1:] == (8, 8, 1)
    assert data.x_train.max() == 255 and set(data.y_test.tolist()) == set(range(10))
    larger = data.resized(16).check("digits", 10, 1)
    assert larger.x_train.shape == (1437, 16, 16, 1)
    mean, std = (larger.x_train.float() / 255).mean().item(), (larger.x_train.float() / 255).std().item()
    assert (round(mean, 4), round(std, 4)) == (0.3053, 0.3191)  # conf/dataset/digits.yaml


def test_digits_match_scikit_learn():
    data, oracle = digits.load(None, True), load_digits()
    images, labels = np.rint(oracle.images * (255 / 16)), oracle.target
    held_out = np.arange(1797) % 5 == 0
    for part, chosen in (("train", ~held_out), ("test", held_out)):
        assert np.array_equal(getattr(data, f"x_{part}")[..., 0], images[chosen])
        assert np.array_equal(getattr(data, f"y_{part}"), labels[chosen])


def test_npz_file_is_read_without_conversion_of_images(tmp_path):
    data = load(save(tmp_path, y_train=(np.arange(20) % 10).astype(np.uint8)))
    assert data.y_train.dtype == torch.int64 and data.x_test.shape == (5, 32, 32, 3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x_test": None}, "has no x_test"),
        ({"x_train": np.zeros((20, 32, 32, 3), np.float32)}, "x_train is torch.float32"),
        ({"x_train": np.zeros((20, 3, 32, 32), np.uint8)}, r"must be uint8 \[N, side, side, 3\]"),
        ({"x_train": np.zeros((0, 32, 32, 3), np.uint8), "y_train": np.zeros(0, int)}, "must be uint8"),
        ({"y_train": np.arange(19) % 10}, r"must be int64 \[20\]"),
        ({"y_test": np.arange(5) + 8}, r"labels 8..12, must lie in \[0, 10\)"),
        ({"y_test": np.linspace(0, 1, 5)}, "y_test is torch.float64"),
        ({"y_test": np.array(list("abcde"))}, "must be numbers of this machine"),
        ({"y_test": np.array([None] * 5)}, "damaged or not an npz"),
        ({"x_test": np.zeros((5, 32, 32, 3), ">u2")}, "must be numbers of this machine"),
    ],
)
def test_invalid_arrays_raise(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        load(save(tmp_path, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 1, 100, -100])
def test_truncated_npz_raises(tmp_path, size):
    path = save(tmp_path) / "cifar10.npz"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match="damaged or not an npz file"):
        read_npz(path)


def test_npy_file_with_the_name_of_an_npz_raises(tmp_path):
    with (tmp_path / "cifar10.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="damaged or not an npz"):
        read_npz(tmp_path / "cifar10.npz")


def test_missing_file_error_names_the_path_and_both_remedies(tmp_path):
    with pytest.raises(UserError) as error:
        cifar.load_cifar10(tmp_path / "nowhere", False)
    for words in (f"{tmp_path}/nowhere/cifar10.npz", "put cifar10.npz there", "dataset.download=true"):
        assert words in str(error.value)
    assert not (tmp_path / "nowhere").exists()


def test_failed_download_leaves_no_files(tmp_path, monkeypatch):
    from torchvision import datasets

    class Unreachable:
        base_folder, filename = "cifar-10-batches-py", "cifar-10-python.tar.gz"

        def __init__(self, root, train, download):
            raise OSError("no route to host")

    monkeypatch.setattr(datasets, "CIFAR10", Unreachable)
    with pytest.raises(UserError, match="no download .no route to host.; put cifar10.npz there"):
        cifar.load_cifar10(tmp_path / "nowhere", True)
    assert list(tmp_path.iterdir()) == []


def test_download_is_cached_as_one_npz_file(tmp_path, monkeypatch):
    """A replacement for torchvision's data set returns the four arrays."""
    from torchvision import datasets

    class Fetched:
        calls, base_folder, filename = 0, "cifar-10-batches-py", "cifar-10-python.tar.gz"

        def __init__(self, root, train, download):
            assert download
            Fetched.calls += 1
            part = "train" if train else "test"
            self.data, self.targets = arrays()[f"x_{part}"], arrays()[f"y_{part}"].tolist()

    monkeypatch.setattr(datasets, "CIFAR10", Fetched)
    for _ in range(2):
        data = cifar.load_cifar10(tmp_path / "data", True)
        assert data.x_train.shape == (20, 32, 32, 3) and Fetched.calls == 2
    assert [path.name for path in (tmp_path / "data").glob("*.npz")] == ["cifar10.npz"]


def test_cifar10_has_the_published_size_and_mean(cifar_root):
    data = load(cifar_root)
    assert (len(data.y_train), len(data.y_test)) == (50_000, 10_000)
    mean = data.x_train.double().mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-5)
