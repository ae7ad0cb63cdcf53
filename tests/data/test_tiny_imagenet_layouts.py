"""Tiny ImageNet as preparation scripts, archives and operating systems leave it: all layouts give the same arrays."""

import shutil
import zipfile

import pytest
from tiny_imagenet_files import CLASSES, TOP, as_folder, as_zip, files, jpeg

from ersparse.data import tiny_imagenet
from ersparse.data.npz_cache import ARRAY_NAMES
from ersparse.errors import UserError

JUNK = b"\0\5\26\7" + b"\0" * 60  # as an AppleDouble file begins


def annotations(base):
    rows = (base / "val/val_annotations.txt").read_text().splitlines()
    return [row.split("\t")[:2] for row in rows]


def linked_parts(root):
    for part in ("train", "val"):
        shutil.move(root / TOP / part, root / f"scratch-{part}")
        (root / TOP / part).symlink_to(root / f"scratch-{part}")


def linked_classes(root):
    for wnid in CLASSES:
        shutil.move(root / TOP / "train" / wnid, root / f"scratch-{wnid}")
        (root / TOP / "train" / wnid).symlink_to(root / f"scratch-{wnid}")


def linked_images(root):
    (root / "store").mkdir()
    for number, path in enumerate(sorted((root / TOP).rglob("*.JPEG"))):
        shutil.move(path, root / "store" / str(number))
        path.symlink_to(root / "store" / str(number))


def linked_to_a_folder_above(root):
    (root / TOP / "train" / CLASSES[0] / "again").symlink_to(root / TOP)


def by_class(root, below="", keep_annotations=False):
    val = root / TOP / "val"
    for name, wnid in annotations(root / TOP):
        (val / wnid / below).mkdir(parents=True, exist_ok=True)
        shutil.move(val / "images" / name, val / wnid / below / name)
    shutil.rmtree(val / "images")
    if not keep_annotations:
        (val / "val_annotations.txt").unlink()


def by_class_in_folders_named_images(root):
    by_class(root, "images")


def by_class_with_annotations(root):
    by_class(root, keep_annotations=True)


def by_class_copied(root):
    for name, wnid in annotations(root / TOP):
        (root / TOP / "val" / wnid).mkdir(exist_ok=True)
        shutil.copy(root / TOP / "val/images" / name, root / TOP / "val" / wnid)
    (root / TOP / "val/val_annotations.txt").unlink()


def flat_training_images(root):
    for wnid in CLASSES:
        for path in list((root / TOP / "train" / wnid / "images").iterdir()):
            shutil.move(path, root / TOP / "train" / wnid)


def nested(root):
    shutil.move(root / TOP, root / "inner")
    (root / TOP).mkdir()
    shutil.move(root / "inner", root / TOP / TOP)


def nested_twice(root):
    nested(root)
    nested(root)


def nested_copy(root):
    shutil.copytree(root / TOP, root / "copy")
    shutil.move(root / "copy", root / TOP / TOP)


def in_the_root_itself(root):
    for path in list((root / TOP).iterdir()):
        shutil.move(path, root)
    (root / TOP).rmdir()


def from_a_mac(root):
    for path in [path for path in (root / TOP).rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(JUNK)
    (root / TOP / "train" / ".DS_Store").write_bytes(JUNK)


def with_a_folder_of_macos(root):
    folder = root / TOP / "__MACOSX" / "train" / CLASSES[0] / "images"
    folder.mkdir(parents=True)
    (folder / f"._{CLASSES[0]}_0.JPEG").write_bytes(JUNK)
    (root / TOP / "__MACOSX" / "wnids.txt").write_bytes(JUNK)


def with_checkpoints_of_notebooks(root):
    folder = root / TOP / "train" / CLASSES[0] / ".ipynb_checkpoints"
    folder.mkdir()
    (folder / "n01_0-checkpoint.JPEG").write_bytes(jpeg(77))


def lower_case_suffixes(root):
    by_class(root)
    for path in list((root / TOP).rglob("*.JPEG")):
        path.rename(path.with_suffix(".jpg"))


LAYOUTS = [
    linked_parts, linked_classes, linked_images, linked_to_a_folder_above, by_class, by_class_in_folders_named_images,
    by_class_with_annotations, by_class_copied, flat_training_images, nested, nested_twice, nested_copy,
    in_the_root_itself, from_a_mac, with_a_folder_of_macos, with_checkpoints_of_notebooks, lower_case_suffixes,
]  # fmt: skip


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    return tiny_imagenet.load(as_zip(tmp_path_factory.mktemp("official")), False)


def check(found, official):
    assert all(getattr(found, name).equal(getattr(official, name)) for name in ARRAY_NAMES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_folder_gives_the_same_arrays(tmp_path, official, layout):
    layout(as_folder(tmp_path))
    check(tiny_imagenet.load(tmp_path, False), official)
    check(tiny_imagenet.load(tmp_path, False), official)  # from the npz file


@pytest.mark.parametrize("top", [TOP, f"{TOP}/{TOP}", "archive", ""])
def test_every_layout_of_a_zip_file_gives_the_same_arrays(tmp_path, official, top):
    with zipfile.ZipFile(tmp_path / f"{TOP}.zip", "w") as archive:
        for name, data in files().items():
            archive.writestr(f"{top}/{name}".lstrip("/"), data)
            archive.writestr(f"__MACOSX/{top}/{name}", JUNK)
    check(tiny_imagenet.load(tmp_path, False), official)


def test_more_than_ten_validation_images_by_class_keep_the_official_order(tmp_path):
    rows = [f"val_{i}.JPEG\t{CLASSES[i % 2]}\t0\t0\t9\t9" for i in range(12)]
    many = {f"val/images/val_{i}.JPEG": jpeg(200 + i) for i in range(12)}
    many["val/val_annotations.txt"] = "\n".join(rows).encode()
    expected = tiny_imagenet.load(as_zip(tmp_path, **many), False)
    other = tmp_path / "other"
    with zipfile.ZipFile(tmp_path / f"{TOP}.zip") as archive:
        archive.extractall(other)
    by_class(other)
    check(tiny_imagenet.load(other, False), expected)


def test_a_class_without_validation_images_is_named(tmp_path):
    by_class(as_folder(tmp_path))
    shutil.rmtree(tmp_path / TOP / "val" / "n01")
    with pytest.raises(UserError, match="is incomplete, has no validation images of class n01"):
        tiny_imagenet.load(tmp_path, False)


def test_a_broken_link_is_named(tmp_path):
    as_folder(tmp_path)
    path = tmp_path / TOP / "val/images/val_1.JPEG"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is incomplete, has no val/images/val_1\.JPEG"):
        tiny_imagenet.load(tmp_path, False)
