"""Data sets of Hugging Face from folders, without a network: images, labels, splits, digests, and errors."""

import importlib.util
import re
import shutil
import sys

import numpy as np
import pytest
from conftest import TINY, read
from image_data import write_image_folder
from PIL import Image

from ersparse import load_images
from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build, identity_fields
from ersparse.config.options import with_defaults
from ersparse.data import huggingface, huggingface_tables, image_cache, image_folder
from ersparse.data.load import load_arrays
from ersparse.data.streamed import StreamedImages
from ersparse.errors import RunFailed, UserError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def nothing_earlier(tmp_path, monkeypatch):
    huggingface.recent_splits.forget()
    monkeypatch.setattr(image_cache, "HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    datasets.disable_progress_bars()


def settings(root, path, args=None, option="huggingface", **keys):
    huggingface.recent_splits.forget()
    image_folder.recent_listing.forget()
    values = with_defaults("dataset", option) | {"root": str(root), "image_size": 8, "download": False} | keys
    if option == "huggingface":
        values["args"] = values["args"] | {"path": str(path)} | (args or {})
    return build(DatasetSettings, values, "dataset.")


def error_of(*arguments, **keys):
    with pytest.raises(UserError) as error:
        load_arrays(settings(*arguments, **keys))
    assert "\n" not in str(error.value)
    return str(error.value)


def table(count=6, label=lambda number: number % 2, kind=None, colour=lambda number: (number, 0, 0), **more):
    """Images of several sizes, whose first pixel is their number, and labels; `more` are further columns."""
    kind = kind or datasets.ClassLabel(names=["cat", "dog"])
    images = [Image.new("RGB", (9 + number, 8), colour(number)) for number in range(count)]
    columns = {"image": images, "label": [label(number) for number in range(count)]}
    features = {"image": datasets.Image(), "label": kind}
    for name, (feature, values) in more.items():
        features[name], columns[name] = feature, values
    return datasets.Dataset.from_dict(columns, datasets.Features(features))


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_progress_bars_are_drawn_in_terminals_and_stay_as_they_were(monkeypatch, terminal, enabled):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    (datasets.enable_progress_bars if enabled else datasets.disable_progress_bars)()
    with huggingface_tables._network(False):
        assert datasets.are_progress_bars_disabled() == (not enabled or not terminal)
    assert datasets.are_progress_bars_disabled() == (not enabled)


def saved(root, **splits):
    datasets.DatasetDict(splits or {"train": table(), "test": table(4)}).save_to_disk(root / "saved")
    return root, "saved"


@pytest.fixture
def folder(tmp_path):
    write_image_folder(tmp_path / "images")
    return tmp_path / "images"


@pytest.mark.parametrize("form", ["folder", "format", "saved", "saved elsewhere"])
def test_every_form_gives_the_images_of_the_folder(tmp_path, folder, form):
    """And the same digest, so that a copy in another form is the same run."""
    expected = load_arrays(settings(folder, None, option="image_folder"))
    args = {"path": str(folder)} if form == "folder" else {"path": "imagefolder", "data_dir": str(folder)}
    if form.startswith("saved"):
        datasets.load_dataset("imagefolder", data_dir=str(folder)).save_to_disk(tmp_path / "saved")
        args = {"path": "saved" if form == "saved" else str(tmp_path / "saved")}
    made = settings(tmp_path, args.pop("path"), args)
    first = settings(tmp_path, folder)
    assert identity_fields(made) == identity_fields(first) and len(made.own_keys()["digest"]) == 16
    assert made.mean == settings(folder, None, option="image_folder").mean and made.channels == 3
    for in_memory in (True, False):
        found = load_arrays(made.model_copy(update={"in_memory": in_memory}))
        assert isinstance(found, StreamedImages) is not in_memory
        for name in ("x_train", "x_test"):
            assert getattr(found, name)[:].equal(getattr(expected, name))
        assert found.y_train.equal(expected.y_train) and found.y_test.equal(expected.y_test)


def test_images_that_change_have_another_digest(tmp_path):
    root, path = saved(tmp_path)
    first = settings(root, path)
    for number, change in enumerate(
        ({"count": 7}, {"label": lambda n: n % 3 % 2}, {"colour": lambda n: (n, 99, n * 7)})
    ):
        other = saved(tmp_path / str(number), train=table(**change), test=table(4))
        assert settings(*other).own_keys()["digest"] != first.own_keys()["digest"]
        message = error_of(*other, digest=first.own_keys()["digest"])
        assert message.startswith(f"dataset.digest={first.own_keys()['digest']}: the images of dataset.args.path=saved")


def test_statistics_of_streamed_images_are_those_in_memory(tmp_path):
    root, path = saved(tmp_path)
    memory, streamed = (settings(root, path, in_memory=chosen) for chosen in (True, False))
    assert streamed == memory.model_copy(update={"in_memory": False})
    assert (memory.num_classes, memory.images, memory.channels) == (2, (6, 4), 3)
    pixels = load_arrays(memory).x_train.double() / 255
    assert memory.mean == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=6e-4)


def gray(count):
    return table(count).map(lambda row: {"image": row["image"].convert("L")}, load_from_cache_file=False)


ANIMALS = {"kind": datasets.Value("string"), "label": lambda number: ("zebra", "ant")[number % 2]}


@pytest.mark.parametrize(
    "splits, args, labels",
    [
        ({"train": {}, "validation": {}}, {}, [0, 1, 0, 1]),
        ({"train": {}, "test": {"label": lambda _: -1}, "validation": {}}, {}, [0, 1, 0, 1]),
        ({"train": {"kind": datasets.Value("int64")}, "test": {"kind": datasets.Value("int64")}}, {}, [0, 1, 0, 1]),
        ({"train": ANIMALS, "test": ANIMALS}, {}, [1, 0, 1, 0]),
        ({"train": {}, "extra": {}}, {"test": "extra"}, [0, 1, 0, 1]),
        ({"train": {}}, {"train": "train[:4]", "test": "train[-50%:]"}, [0, 1]),
        ({"all": {}}, {"train": "all[:2]+all[2:]", "test": "all[1:3]"}, [1, 0]),
    ],
)  # fmt: skip
def test_splits_and_labels_are_found(tmp_path, splits, args, labels):
    made = {name: table(4, **keys) for name, keys in splits.items()}
    data = load_arrays(settings(*saved(tmp_path, **made), args))
    assert data.y_test.tolist() == labels and len(data.y_train) == 4


def test_gray_images_have_one_channel(tmp_path):
    made = settings(*saved(tmp_path, train=gray(6), test=gray(4)))
    assert made.channels == 1 and load_arrays(made).x_test.shape == (4, 8, 8, 1)
    assert settings(*saved(tmp_path / "b", train=gray(6), test=table(4))).channels == 3


def test_columns_are_named_where_there_are_several(tmp_path):
    coarse = (datasets.ClassLabel(names=["a", "b", "c"]), [0, 1, 2, 0, 1, 2])
    made = table(6, coarse=coarse)
    where = saved(tmp_path, train=made, test=made)
    assert "has several columns of classes, label, coarse; dataset.args.label must name one" in error_of(*where)
    assert settings(*where, {"label": "coarse"}).num_classes == 3
    assert "dataset.args.label=fine: dataset.args.path=saved has no such column; must be" in error_of(
        *where, {"label": "fine"}
    )
    assert "dataset.args.image=label: dataset.args.path=saved has no images there" in error_of(
        *where, {"image": "label", "label": "label"}
    )


@pytest.mark.parametrize(
    "splits, args, message",
    [
        ({"train": {}}, {}, "has no test images with labels among splits train; dataset.args.test must name them"),
        ({"train": {}, "test": {"label": lambda _: -1}}, {}, "has no test images with labels among splits train, test"),
        ({"first": {}, "test": {}}, {}, "has splits first, test; dataset.args.train must name one"),
        ({"train": {}, "test": {}}, {"test": "train[5:90"}, r"train\[5:90 is not a part of splits train, test"),
        ({"train": {}, "test": {}}, {"test": "other[:5]"}, r"other\[:5\] is not a part of splits train, test"),
        ({"train": {"label": lambda _: -1}, "test": {}}, {}, "dataset.args.label=label: .* other labels than"),
        ({"train": {"label": lambda _: None}, "test": {}}, {}, "dataset.args.label=label: .* other labels than"),
        ({"train": {"label": lambda _: 0}, "test": {}}, {}, "has test images of class dog, but no training images"),
        ({"train": {}, "test": {}}, {"label": 3}, "dataset.args.label=3: must be a valid string"),
        ({"train": {}, "test": {}}, {"colour": 3}, "dataset.args.colour=3: no such key"),
    ],
)  # fmt: skip
def test_invalid_data_sets_are_one_line(tmp_path, splits, args, message):
    made = {name: table(4, **keys) for name, keys in splits.items()}
    found = error_of(*saved(tmp_path, **made), args)
    assert re.search(message, found), found


def test_tables_without_images_and_missing_data_sets_are_one_line(tmp_path):
    numbers = datasets.Dataset.from_dict({"x": [1, 2], "label": [0, 1]})
    assert "has no column of images among x, label" in error_of(*saved(tmp_path, train=numbers, test=numbers))
    (tmp_path / "empty").mkdir()
    for path in ("nobody/nothing", "empty", "saved/train/nowhere"):
        assert f"dataset.args.path={path}: cannot be opened by datasets" in error_of(tmp_path, path)
    assert "dataset.args.path=null: must be" in error_of(tmp_path, None, {"path": None})


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert error_of(tmp_path, "saved").endswith("datasets is not installed; pip install 'ersparse[huggingface]'")


def test_a_damaged_image_is_named(tmp_path):
    made = table(4).cast_column("image", datasets.Image(decode=False))
    made = made.map(
        lambda row, n: {"image": row["image"] | {"bytes": b"\x89PNG" if n == 2 else row["image"]["bytes"]}},
        with_indices=True,
    ).cast_column("image", datasets.Image())
    where = saved(tmp_path, train=made, test=table(4))
    assert "dataset.args.path=saved: image 2 cannot be decoded (cannot identify image file" in error_of(*where)
    streamed = load_arrays(settings(*where, in_memory=False, mean=[0.5] * 3, std=[0.2] * 3))
    with pytest.raises(RunFailed, match="dataset.args.path=saved: image 2 cannot be decoded"):
        streamed.x_train[:]


def test_a_run_streams_them(launch, only_run, tmp_path):
    saved(tmp_path)
    words = ["dataset=huggingface", f"dataset.args.path={tmp_path}/saved", "dataset.image_size=16", *TINY]
    words += ["dataset.batch_size=4", "dataset.transforms=resized_crop", "dataset.workers=0"]
    status, printed = launch(*words)
    assert status == 0, printed
    record = read(only_run())
    assert not record["data"]["in_memory"] and record["data"]["images"] == [6, 4]
    assert len(record["config"]["dataset"]["digest"]) == 16
    assert load_images(only_run()).y_test.tolist() == [0, 1, 0, 1]
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    status, printed = launch(*words, f"dataset.args.path={tmp_path}/moved")
    assert status == 0 and "already done" in printed and np.isfinite(record["metrics"]["test/loss"])
