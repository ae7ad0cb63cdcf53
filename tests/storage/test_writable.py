"""Folders that cannot be written are refused before anything is created, by a dry run as well."""

import errno
import os
from types import SimpleNamespace

import pytest
from conftest import TINY

from ersparse.errors import UserError
from ersparse.storage.writable import check_writable


def obstacle(tmp_path, monkeypatch, kind):
    """A path that cannot be created for a reason, and the number of the error that creating it would give."""
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("")
        return place, errno.ENOTDIR
    if kind == "a broken link":
        place.symlink_to(tmp_path / "nowhere")
        return place, errno.ENOENT
    if kind == "a read-only file system":
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
        return place, errno.EROFS
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))
    return place, errno.EACCES


@pytest.mark.parametrize("kind", ["a file", "a broken link", "a read-only file system", "another user's folder"])
@pytest.mark.parametrize("below", ["", "runs/network/s0"])
def test_obstacles_are_named_as_creating_the_folder_would(tmp_path, monkeypatch, kind, below):
    place, number = obstacle(tmp_path, monkeypatch, kind)
    with pytest.raises(UserError, match=rf"^paths.root: {place / below} cannot be written \({os.strerror(number)}\)$"):
        check_writable(place / below)


def test_folders_that_can_be_created_pass(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "a" / "b", tmp_path / "link" / "a", tmp_path.relative_to(tmp_path) / "a"):
        check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("words", [
    ["method=draw"], ["-m", "method=draw", "seed=0,1"], ["method=theory"], ["-m", "hydra/sweeper=basic"],
    ["-m", "hydra/launcher=basic"],
])  # fmt: skip
def test_a_dry_run_refuses_what_the_run_would(launch, tmp_path, words):
    (tmp_path / "place").write_text("")
    for more in (["dry_run=true"], []):
        status, printed = launch(*words, *more, f"paths.root={tmp_path}/place")
        line = printed.strip()
        assert status == 2 and line.startswith("paths.root: ") and line.endswith("cannot be written (Not a directory)")
        assert "\n" not in line


def test_a_run_that_is_done_may_lie_on_a_read_only_file_system(launch, finished, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert launch(*TINY)[1].startswith("already done: ")
    assert launch(*TINY, "dry_run=true")[0] == 0
    assert "Read-only file system" in launch(*TINY, "fresh=true", "dry_run=true")[1]
