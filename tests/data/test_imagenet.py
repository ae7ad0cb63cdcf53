"""ImageNet: the layouts that lie on disks, and errors for those that are incomplete."""

import shutil
import tarfile

import numpy as np
import pytest
from conftest import TINY, kill_at, outcome, read, resumed_and_undisturbed
from scipy.io import savemat

from benchmarks.made_up_imagenet import write_imagenet
from ersparse.config.dataset_settings import DatasetSettings
from ersparse.config.groups import build
from ersparse.config.options import with_defaults
from ersparse.data import image_cache, imagenet
from ersparse.data.imagenet import list_imagenet
from ersparse.data.load import load_arrays
from ersparse.errors import UserError

WNIDS = [f"n{10_000_000 + number}" for number in range(3)]
ORDER = [2, 0, 1, 1, 2, 0]  # class of validation images 1 to 6


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setattr(image_cache, "HOME", str(tmp_path / "home"))


def by_class(root):
    write_imagenet(root, 3, 4, 2, side=20)


def flat(root, base=""):
    """Validation images in one folder, numbered as the official ones are."""
    by_class(root / base)
    left = {wnid: sorted((root / base / "val" / wnid).iterdir()) for wnid in WNIDS}
    for number, label in enumerate(ORDER, 1):
        left[WNIDS[label]].pop(0).rename(root / base / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    for wnid in WNIDS:
        (root / base / "val" / wnid).rmdir()


def development_kit(root):
    """The kit numbers classes in another order than that of their names, and has inner nodes."""
    flat(root)
    data = root / imagenet.KIT / "data"
    data.mkdir(parents=True)
    numbers = {WNIDS[0]: 3, WNIDS[1]: 1, WNIDS[2]: 2, "n00000001": 1001}
    rows = np.array(list(numbers.items()), [("WNID", "O"), ("ILSVRC2012_ID", "O")])[::-1]
    rows["ILSVRC2012_ID"] = [float(number) for number in rows["ILSVRC2012_ID"]]
    savemat(data / "meta.mat", {"synsets": rows})
    lines = [str(numbers[WNIDS[label]]) for label in ORDER]
    (root / imagenet.KIT / imagenet.GROUND_TRUTH).write_text("\n".join(lines) + "\n")


def packed_development_kit(root):
    development_kit(root)
    with tarfile.open(root / f"{imagenet.KIT}.tar.gz", "w:gz") as file:
        file.add(root / imagenet.KIT, imagenet.KIT)
    shutil.rmtree(root / imagenet.KIT)


def kaggle(root):
    flat(root, "ILSVRC/Data/CLS-LOC")
    rows = [f"ILSVRC2012_val_{n:08},{WNIDS[label]} 1 2 3 4 " for n, label in enumerate(ORDER, 1)]
    (root / imagenet.KAGGLE).write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]) + "\n")


def linked_parts(root):
    by_class(root / "elsewhere/store")
    for part in ("train", "val"):
        (root / part).symlink_to(root / "elsewhere/store" / part)


def hidden_files(root):
    by_class(root)
    for path in sorted(root.rglob("*.JPEG")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    (root / "train/.DS_Store").write_bytes(b"")


LAYOUTS = [by_class, development_kit, packed_development_kit, kaggle, linked_parts, hidden_files]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_same_images(tmp_path, layout):
    by_class(tmp_path / "reference")
    (tmp_path / "root").mkdir()
    layout(tmp_path / "root")
    contents = []
    for root in (tmp_path / "reference", tmp_path / "root"):
        listing = list_imagenet(root, 3)
        parts = ([(root / file.name).read_bytes() for file in files] for files in (listing.train, listing.test))
        contents.append(
            [
                listing.classes,
                *(
                    sorted(zip(f.labels.tolist(), part, strict=True))
                    for f, part in zip((listing.train, listing.test), parts, strict=True)
                ),
            ]
        )
    assert contents[0] == contents[1]
    assert contents[0][0] == tuple(WNIDS) and len(contents[0][1]) == 12 and len(contents[0][2]) == 6


def without(path):
    def change(root):
        flat(root)
        shutil.rmtree(root / path)

    return change


def unknown_class(root):
    kaggle(root)
    (root / imagenet.KAGGLE).write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n99 1 2 3 4\n")


def damaged_kit(root):
    development_kit(root)
    (root / imagenet.KIT / imagenet.SYNSETS).write_bytes(b"x" * 200)


def truncated_kit(root):
    packed_development_kit(root)
    path = root / f"{imagenet.KIT}.tar.gz"
    path.write_bytes(path.read_bytes()[:200])


def only_archives(root):
    (root / imagenet.ARCHIVE).write_bytes(b"")


def class_without_validation(root):
    by_class(root)
    shutil.rmtree(root / "val" / WNIDS[1])


@pytest.mark.parametrize(
    "layout, message",
    [
        (lambda root: None, "is not ImageNet, has no train/"),
        (only_archives, "ILSVRC2012_img_train.tar has to be unpacked, as torchvision.datasets.ImageNet does"),
        (without("val"), "is incomplete, has no val/"),
        (flat, "val/ has no folder per class; ILSVRC2012_devkit_t12, its tar.gz or LOC_val_solution.csv must be"),
        (unknown_class, "is of class n99, which has no training images"),
        (damaged_kit, "ILSVRC2012_devkit_t12 is damaged"),
        (truncated_kit, "ILSVRC2012_devkit_t12 cannot be read"),
        (class_without_validation, "is incomplete, has no validation images of class n10000001"),
        (without(f"train/{WNIDS[0]}"), "dataset.num_classes=3: .* has training images of 2 classes; must be as many"),
    ],
)
def test_incomplete_layouts_are_one_line(tmp_path, layout, message):
    layout(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        list_imagenet(tmp_path, 3)
    assert "\n" not in str(error.value)


def test_in_memory_and_streamed_evaluation_images_agree(tmp_path):
    by_class(tmp_path)
    values = with_defaults("dataset", "imagenet") | {
        "root": str(tmp_path), "num_classes": 3, "image_size": 14, "resize": 16, "transforms": "crop"
    }  # fmt: skip
    memory, streamed = (
        load_arrays(build(DatasetSettings, values | {"in_memory": chosen}, "dataset.")) for chosen in (True, False)
    )
    assert streamed.x_test[:].equal(memory.x_test) and streamed.y_train.equal(memory.y_train)


WORDS = ["dataset=imagenet", "dataset.num_classes=3", "dataset.image_size=16", "dataset.resize=18"]


@pytest.mark.parametrize("method", ["fixed", "rigl"])
def test_a_small_version_trains(launch, only_run, tmp_path, method):
    by_class(tmp_path / "images")
    words = [*TINY, *WORDS, f"dataset.root={tmp_path}/images", "dataset.batch_size=4", "dataset.workers=0"]
    status, printed = launch(*words, f"method={method}")
    assert status == 0, printed
    record = read(only_run())
    assert not record["data"]["in_memory"] and record["data"]["images"] == [12, 6]
    assert record["config"]["dataset"]["transforms"] == "resized_crop"
    run = only_run()
    shutil.rmtree(tmp_path / "images/val" / WNIDS[2])
    assert launch(*words, f"method={method}")[0] == 0  # done already, so that nothing is read
    assert only_run() == run


@pytest.mark.slow
def test_a_killed_run_of_resnet50_resumes(process, tmp_path):
    by_class(tmp_path / "images")
    words = [*WORDS, f"dataset.root={tmp_path}/images", "dataset.batch_size=4", "dataset.workers=0", "method=rigl",
             "dataset.image_size=32", "dataset.resize=36", "model=resnet50_imagenet", "model.width=0.125",
             "trainer.max_epochs=4", "trainer.execution=masked"]  # fmt: skip
    kill_at(process, tmp_path, [*words, "dataset.workers=1"], "epoch00001")
    (_, killed), (_, undisturbed) = resumed_and_undisturbed(tmp_path, words)
    assert outcome(killed) == outcome(undisturbed)
