"""Settings that were read from the images: the overrides that compose them again name the same run."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from image_data import write_image_folder, write_mnist

from ersparse.config.command_line import command, overrides
from ersparse.config.groups import build
from ersparse.config.options import CONF, values_of
from ersparse.config.schema import Settings
from ersparse.runs.planner import make_plan


def settings(*words):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(Settings, values_of(compose("config", list(words))))


@pytest.mark.parametrize("words", [["dataset=image_folder"], ["dataset=torchvision", "dataset.args.name=KMNIST"]])
def test_overrides_name_the_same_run(tmp_path, words):
    write_mnist(tmp_path, name="KMNIST") if "dataset=torchvision" in words else write_image_folder(tmp_path)
    expected = settings(*words, f"dataset.root={tmp_path}")
    for again in (overrides(expected), shlex.split(command(expected))[2:]):
        found = settings(*again)
        assert found.dataset == expected.dataset and make_plan(found).hash == make_plan(expected).hash


@pytest.mark.slow
def test_a_prerequisite_is_made_for_a_folder_of_images(launch, tmp_path):
    """The job that makes it is started from overrides, which hold lists."""
    write_image_folder(tmp_path / "images")
    words = ["dataset=image_folder", f"dataset.root={tmp_path}/images", "dataset.image_size=8", "model.width=0.25",
             "dataset.batch_size=20", "sparsity=imp_iterative", "sparsity.make=true", "scale=smoke"]  # fmt: skip
    words += ["dataset.mean=[0.1,0.1,0.1]", "hydra.launcher.slots=1"]
    status, printed = launch(*words[:-2], "dataset=image_folder", "-m", "seed=0", *words[-2:])
    assert status == 0, printed
