"""Commands whose output is closed, full or narrow, and folders that may not be read or have been removed."""

import errno
import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from ersparse import cli
from ersparse.cli import streams
from ersparse.errors import UserError
from ersparse.runs.path_errors import path_errors
from ersparse.storage.atomic import write_json


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_closed_streams_change_no_status(monkeypatch, closed):
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    for words, status in ((["model=null"], 2), (["--help"], 0)):
        monkeypatch.setattr(sys, "argv", ["launch.py", *words])
        assert cli.launch() == status
    for name in closed:
        getattr(sys, name).close()


def test_a_full_disk_under_the_output_is_a_failure_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ersparse", "--help"])
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(streams, "_discard_output", lambda: None)
    assert cli.main() == 1
    assert capsys.readouterr().err == "standard output: cannot be written (No space left on device)\n"


def test_a_folder_that_is_gone_is_named(monkeypatch, capsys):
    def gone():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    assert cli.main() == 2
    assert capsys.readouterr().err.startswith("the current folder does not exist")


def test_a_path_that_is_no_text_is_recorded(launch, only_run, tmp_path, monkeypatch):
    """Python reads bytes of a path that are not characters of the locale as surrogates."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)  # xdist cannot send such a line
    root = f"{tmp_path}/outputs/\udcff"
    status, printed = launch("method=draw", f"paths.root={root}")
    assert status == 0, printed
    assert json.loads((only_run() / "run.json").read_bytes())["config"]["paths"]["root"] == root
    assert launch("method=draw", f"paths.root={root}")[1].startswith("already done")


def test_readable_text_stays_readable_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"path": "/é"})
    assert "é" in (tmp_path / "a.json").read_text()


KEYS = {"paths.cache": "cache", "dataset.root": "data", "sparsity.file": "file", "model.init_from": "run"}


@pytest.mark.parametrize("key, folder", KEYS.items())
def test_what_may_not_be_read_is_named_with_its_key(key, folder):
    group, name = key.split(".")
    values = {"paths": {"root": "/"}, group: {name: f"/a/{folder}"}}
    with pytest.raises(
        UserError, match=rf"^{key}=/a/{folder}: /a/{folder}/x cannot be accessed \(Permission denied\)$"
    ):
        with path_errors(values):
            raise PermissionError(errno.EACCES, "Permission denied", f"/a/{folder}/x")


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device", "/a/x"), FileNotFoundError(errno.ENOENT, "no such file", "/a/x"),
    PermissionError(errno.EACCES, "Permission denied", "/b/x"), PermissionError(errno.EACCES, "Permission denied"),
])  # fmt: skip
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(OSError) as raised:
        with path_errors({"dataset": {"root": "/a"}, "model": {"init_from": None}, "sparsity": None}):
            raise error
    assert raised.value is error


@pytest.fixture
def unreadable(monkeypatch, tmp_path):
    """A folder that may not be read. For root this is only said: the system lets root read anything."""
    folder = tmp_path / "private"
    folder.mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and allowed(path, mode))
    return folder


@pytest.mark.parametrize("command", ["status", "retry", "report", "density --config-dir", "run --config-dir"])
def test_a_folder_that_may_not_be_read_is_refused(monkeypatch, capsys, unreadable, command):
    monkeypatch.setattr(sys, "argv", ["ersparse", *command.split(), str(unreadable)])
    assert cli.main() == 2
    assert capsys.readouterr().err.endswith(f"{unreadable}: cannot be read (permission denied)\n")
