"""Damaged checkpoints, and the ones used instead."""

import logging

import damage
import pytest
import torch

from ersparse.storage.checkpoints import CheckpointFiles


@pytest.fixture
def files(tmp_path):
    files = CheckpointFiles(tmp_path / "checkpoints", "hash/0")
    for epoch in (1, 2, 3):
        files.write({"epoch": epoch, "weights": torch.arange(1000.0)}, files.intended(epoch))
    return files


def newest(files):
    return sorted(files.folder.glob("*.ckpt"))[-1]


def test_the_two_newest_checkpoints_are_kept(files):
    assert [path.name[:10] for path in sorted(files.folder.iterdir())] == ["epoch00002", "epoch00003"]
    epoch, path = files.latest()
    assert epoch == 3 and torch.load(path, weights_only=True)["epoch"] == 3


@pytest.mark.parametrize("spoil", damage.ALL.values(), ids=damage.ALL)
def test_a_damaged_checkpoint_is_logged_and_skipped(files, spoil, caplog):
    spoil(newest(files))
    with caplog.at_level(logging.WARNING):
        epoch, path = files.latest()
    assert epoch == 2 and torch.load(path, weights_only=True)["epoch"] == 2
    reason = (
        "is from a newer ersparse (format 3, this one reads 2)" if spoil is damage.newer else "is damaged or another"
    )
    assert reason in caplog.text and "epoch00003" in caplog.text


def test_checkpoints_are_verified_after_writing(files, monkeypatch):
    """A checkpoint that a faulty disk corrupts does not replace older ones."""
    from ersparse.storage import checkpoints

    def lossy(path, data):
        path.write_bytes(bytes(data)[:-1] + b"x")

    monkeypatch.setattr(checkpoints, "write_bytes", lossy)
    with pytest.raises(OSError, match="reads back differently"):
        files.write({"epoch": 4}, files.intended(4))
    assert files.latest()[0] == 3


def test_damaged_checkpoints_do_not_displace_new_ones(files):
    for path in files.folder.glob("*.ckpt"):
        damage.zero(path)
    assert files.latest() is None
    files.write({"epoch": 1}, files.intended(1))
    assert files.latest()[0] == 1


def test_epochs_are_compared_as_numbers(files):
    for epoch in (99_999, 100_000):
        files.write({"epoch": epoch}, files.intended(epoch))
    assert files.latest()[0] == 100_000


def test_without_intact_checkpoints_latest_is_none(files):
    for path in files.folder.glob("*.ckpt"):
        damage.truncate(path)
    assert files.latest() is None


def test_partial_files_are_ignored_and_removed(files):
    (files.folder / ".epoch00004-0123456789abcdef.ckpt.partial").write_bytes(b"half")
    assert files.latest()[0] == 3
    files.keep(1)
    assert [path.name[:10] for path in files.folder.iterdir()] == ["epoch00003"]
