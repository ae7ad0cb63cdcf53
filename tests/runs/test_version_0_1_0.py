"""Run folders that version 0.1.0 wrote: they are read, reported, left alone when done, and resumed when interrupted.

The archive has two runs of a resnet20 of width 0.125 on digits, made by the first commit with that version number: a
finished one, and one that was interrupted after the first of six epochs, with its checkpoint.
"""

import tarfile
from pathlib import Path

import pytest
from conftest import ROOT, read

import ersparse
from ersparse.cli.report import main as report
from ersparse.cli.status import run_statuses

SAME = ["model.width=0.125", "dataset.batch_size=128", "dataset.root=data"]


@pytest.fixture
def old(tmp_path):
    with tarfile.open(ROOT / "tests/golden/version_0_1_0.tar.xz") as archive:
        archive.extractall(tmp_path / "outputs", filter="data")
    return sorted((path.parent for path in tmp_path.rglob("run.json")), key=lambda folder: folder.name)


def test_a_finished_run_is_read(old):
    network, images = ersparse.load(old[0]), ersparse.load_images(old[0])
    record = read(old[0])
    kept = {layer.name: layer.kept for layer in ersparse.summary(network).layers}
    assert kept == {layer["name"]: layer["nonzero"] for layer in record["layers"]}
    assert len(images.y_test) == 360


def test_a_finished_run_is_left_alone(old, launch):
    before = {path: path.read_bytes() for path in old[0].rglob("*") if path.is_file()}
    status, printed = launch(*SAME, "trainer.max_epochs=2", "seed=0")
    assert status == 0 and "already done: test accuracy 0.0917, realised sparsity 0.8992" in printed
    assert {path: path.read_bytes() for path in before} == before


def test_both_are_listed_and_reported(old, tmp_path, capsys):
    assert [status.state for status in run_statuses(tmp_path / "outputs")] == ["done", "preempted"]
    assert report([str(tmp_path / "outputs")]) == 0
    assert "0 skipped" in capsys.readouterr().out


def test_an_interrupted_run_resumes(old, launch):
    drawn = read(old[1])
    first = (old[1] / "metrics.csv").read_text().splitlines()[1]
    status, printed = launch(*SAME, "trainer.max_epochs=6", "seed=1")
    record = read(old[1])
    assert status == 0 and "resuming after epoch 1" in printed, printed
    assert record["state"] == "done" and record["progress"] == {"epoch": 6, "epochs": 6}
    lines = (old[1] / "metrics.csv").read_text().splitlines()
    assert lines[1] == first and [line.partition(",")[0] for line in lines[1:]] == ["0", "1", "2", "3", "4", "5"]
    assert record["mask_sha256"] == drawn["mask_sha256"] == drawn["source_mask_sha256"]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_and_the_run_starts_over(old, launch):
    (checkpoint,) = (old[1] / "checkpoints").glob("*.ckpt")
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(data)
    status, printed = launch(*SAME, "trainer.max_epochs=6", "seed=1")
    assert status == 0 and "resuming after" not in printed and read(old[1])["state"] == "done"


def test_state_of_renamed_callbacks_is_found_by_their_new_names():
    """Each new name is that of a callback, and nothing that a newer version wrote is replaced."""
    from ersparse.lightning import callbacks
    from ersparse.lightning.older_checkpoints import RENAMED, rename_callbacks

    checkpoint = {"callbacks": {"Levels": {"weights": 1}, "History": {"rows": []}, "MetricsHistory": {"rows": [2]}}}
    rename_callbacks(checkpoint)
    assert checkpoint["callbacks"] == {"PruneAndRewind": {"weights": 1}, "MetricsHistory": {"rows": [2]}}
    text = "".join(path.read_text() for path in Path(callbacks.__path__[0]).glob("*.py"))
    assert all(f"class {name}(" in text for name in RENAMED.values())
