"""Data sets of torchvision by name, from files on disk, without a network."""

import pickle

import numpy as np
import pytest
from conftest import TINY, read
from image_data import (
    write_country211,
    write_dtd,
    write_flowers102,
    write_food101,
    write_imagenette,
    write_mnist,
)
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build
from ersparse.config.options import with_defaults
from ersparse.data import image_cache, placement, torchvision_datasets
from ersparse.data.load import load_arrays
from ersparse.data.streamed import StreamedImages
from ersparse.data.torchvision_datasets import TorchvisionReader, TorchvisionSplit
from ersparse.errors import RunFailed, UserError


@pytest.fixture(autouse=True)
def no_network(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.utils, "_urlretrieve", refused)
    monkeypatch.setattr(image_cache, "HOME", str(tmp_path / "home"))


def settings(root, name="MNIST", args=None, **keys):
    values = with_defaults("dataset", "torchvision") | {"root": str(root), "args": {"name": name} | (args or {})}
    return build(DatasetSettings, values | keys, "dataset.")


def error_of(*arguments, **keys):
    with pytest.raises(UserError) as error:
        load_arrays(settings(*arguments, **keys))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_relatives_of_mnist_are_read(tmp_path, name):
    train, test = write_mnist(tmp_path, name=name)
    found = settings(tmp_path, name, image_size=28)
    assert (found.num_classes, found.channels, found.images) == (10, 1, (40, 40))
    assert found.mean == pytest.approx([train.mean() / 255], abs=6e-4)
    data = load_arrays(found)
    assert np.array_equal(data.x_train[..., 0], train) and np.array_equal(data.x_test[..., 0], test)
    assert data.y_train.tolist() == [number % 10 for number in range(40)]


def test_images_are_read_once(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    first = load_arrays(settings(tmp_path))
    monkeypatch.setattr(torchvision_datasets, "decode_splits", lambda *_: pytest.fail("read again"))
    assert load_arrays(settings(tmp_path)).x_train.equal(first.x_train)


def test_a_data_set_with_named_splits_is_read(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), np.uint8)
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": (np.arange(20) % 10 + 1)[:, None]})
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    data = load_arrays(settings(tmp_path, "SVHN"))
    assert np.array_equal(data.x_train, images.transpose(3, 0, 1, 2))
    assert sorted(set(data.y_test.tolist())) == list(range(10))


class Photographs:
    """Stands for torchvision's classes: rectangular photographs, in `trainval` and `test`."""

    label = staticmethod(lambda number: number % 3)

    def __init__(self, root, split="trainval", download=False):
        self.count = {"trainval": 12, "test": 6}[split]

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        return Image.new("RGB", (40 + number, 30), (number, 0, 0)), self.label(number)


@pytest.fixture
def photographs(monkeypatch):
    monkeypatch.setattr(datasets, "OxfordIIITPet", Photographs)
    return Photographs


def test_photographs_of_several_sizes_are_cropped(tmp_path, photographs):
    found = settings(tmp_path, "OxfordIIITPet")
    assert (found.num_classes, found.channels, found.images) == (3, 3, (12, 6))
    data = load_arrays(found)
    assert data.x_train.shape == (12, 32, 32, 3) and data.x_train[:, 5, 5, 0].tolist() == list(range(12))


FOLDERS = {
    "Food101": (write_food101, [1, 1, 1, 0, 0, 0], [1, 1, 0, 0]),
    "Flowers102": (write_flowers102, [0, 1, 0, 1], [0, 1, 0, 1]),
    "DTD": (write_dtd, [1, 0, 1, 0], [1, 0, 1, 0]),
    "Country211": (write_country211, [0, 0, 1, 1], [0, 0, 1, 1]),
    "Imagenette": (write_imagenette, [0, 0, 1, 1], [0, 0, 1, 1]),
}


@pytest.fixture
def unverified(monkeypatch):
    """Files are not those whose checksums torchvision knows."""
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)


@pytest.mark.parametrize("name", FOLDERS)
def test_streamed_images_are_those_in_memory(tmp_path, unverified, name):
    write, y_train, y_test = FOLDERS[name]
    write(tmp_path)
    memory, streamed = (settings(tmp_path, name, in_memory=chosen) for chosen in (True, False))
    assert streamed == memory.model_copy(update={"in_memory": False}) and memory.images == (len(y_train), len(y_test))
    arrays, images = load_arrays(memory), load_arrays(streamed)
    assert arrays.y_train.tolist() == images.y_train.tolist() == y_train and images.y_test.tolist() == y_test
    assert images.x_train[:].equal(arrays.x_train) and images.x_test[:].equal(arrays.x_test)
    first = arrays.x_train[0]
    opened = pickle.loads(pickle.dumps(images.x_train)).open(0)
    assert opened.size[1] == 30 and first.shape == (32, 32, 3)  # as a worker process gets them, in their own size


def test_large_data_sets_are_streamed_and_cached_ones_are_not_opened(tmp_path, monkeypatch):
    write_food101(tmp_path)
    monkeypatch.setattr(placement, "memory", lambda: 1000)
    assert isinstance(load_arrays(settings(tmp_path, "Food101")), StreamedImages)
    monkeypatch.undo()
    load_arrays(first := settings(tmp_path, "Food101"))
    monkeypatch.setattr(TorchvisionReader, "_open", lambda *_: pytest.fail("opened"))
    assert settings(tmp_path, "Food101") == first


def test_labels_of_any_attribute_are_those_of_the_images():
    """An attribute that says something else is not believed."""
    numbers = [3, 1, 2]

    class Images:
        targets = ((3, 0), (1, 0), (2, 0))
        labels = (0, 0, 0)

        def __len__(self):
            return 3

        def __getitem__(self, number):
            return None, numbers[number]

    assert TorchvisionSplit("Images", Images()).labels.tolist() == numbers
    Images.labels = np.array([3, 1, 2])
    assert TorchvisionSplit("Images", Images()).labels.tolist() == numbers


def test_a_damaged_photograph_is_named(tmp_path):
    write_food101(tmp_path)
    streamed = load_arrays(settings(tmp_path, "Food101", in_memory=False))
    (tmp_path / "food-101/images/ramen/train1.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(RunFailed, match="dataset.args.name=Food101: image 1 cannot be decoded") as error:
        streamed.x_train[:]
    assert "\n" not in str(error.value)
    assert "dataset.args.name=Food101: image 1 cannot be decoded" in error_of(tmp_path, "Food101", in_memory=True)


@pytest.mark.parametrize("label", [lambda number: "cat", lambda number: {"a": 1}, lambda number: None])
def test_labels_that_are_no_numbers_raise(tmp_path, photographs, monkeypatch, label):
    monkeypatch.setattr(photographs, "label", staticmethod(label))
    assert error_of(tmp_path, "OxfordIIITPet").startswith("dataset.args.name=OxfordIIITPet: cannot be read as images")


@pytest.mark.parametrize("name", ["MNIST", "SVHN", "Flowers102", "Food101", "STL10", "GTSRB", "USPS"])
def test_missing_files_without_a_network_raise(tmp_path, name):
    found = error_of(tmp_path / "data", name)
    assert found.startswith(f"dataset.root={tmp_path}/data: torchvision's {name} is not there, and no download (")
    assert not list(tmp_path.rglob("*.npz"))
    found = error_of(tmp_path / "data", name, download=False)
    assert f"torchvision's {name} is not there (" in found and "dataset.download=true" in found


@pytest.mark.parametrize(
    "name", ["MNISTS", "mnist", "ImageFolder", "EuroSAT", "wrap_dataset_for_transforms_v2", "utils"]
)
def test_other_names_raise(tmp_path, name):
    assert error_of(tmp_path, name).startswith(f"dataset.args.name={name}: must be a data set of torchvision with")


def test_a_missing_argument_is_named(tmp_path):
    assert (
        error_of(tmp_path, "EMNIST") == "dataset.args.name=EMNIST: needs dataset.args.split, in an option of your own"
    )


def test_a_run_streams_photographs(launch, only_run, tmp_path):
    write_food101(tmp_path)
    words = [*TINY, "dataset=torchvision", "dataset.args.name=Food101", f"dataset.root={tmp_path}"]
    words += ["dataset.transforms=resized_crop", "dataset.workers=0", "dataset.batch_size=4", "dataset.image_size=16"]
    status, printed = launch(*words)
    assert status == 0, printed
    record = read(only_run())
    assert not record["data"]["in_memory"] and record["data"]["images"] == [6, 4]
    assert len(record["data"]["digest"]) == 16 and "digest" not in record["config"]["dataset"]


def test_a_run_records_what_was_read(launch, only_run, tmp_path):
    write_mnist(tmp_path / "data")
    words = [*TINY, "dataset=torchvision", f"dataset.root={tmp_path}/data", "dataset.batch_size=20"]
    status, printed = launch(*words, "dataset.args.name=MNIST")
    assert status == 0, printed
    dataset = read(only_run())["config"]["dataset"]
    assert dataset["num_classes"] == 10 and dataset["channels"] == 1 and dataset["args"] == {"name": "MNIST"}
    write_mnist(tmp_path / "data", name="KMNIST")
    assert launch(*words, "dataset.args.name=KMNIST")[0] == 0
    assert len(list(tmp_path.glob("outputs/runs/*/s0/run.json"))) == 2  # the name enters the hash


def test_further_arguments_stand_in_an_option_of_ones_own(tmp_path, launch, only_run):
    """As docs/data.md shows for EMNIST, whose labels of letters begin at 1."""
    write_mnist(tmp_path / "data", name="EMNIST")
    for path in (tmp_path / "data/EMNIST/raw").iterdir():
        part, _, rest = path.name.partition("-")
        path.rename(path.with_name(f"emnist-letters-{part.replace('t10k', 'test')}-{rest}"))
    option = tmp_path / "mine/dataset/letters.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(
        "# Letters.\ndefaults: [torchvision, _self_]\nname: letters\nargs: {name: EMNIST, split: letters}"
    )
    words = ["dataset=letters", f"dataset.root={tmp_path}/data", "dataset.batch_size=20"]
    status, printed = launch("--config-dir", str(tmp_path / "mine"), *TINY, *words)
    assert status == 0, printed
    assert read(only_run())["config"]["dataset"]["channels"] == 1
