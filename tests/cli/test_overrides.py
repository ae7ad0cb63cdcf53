"""Command lines that users of Hydra write, in any order, with any path."""

import subprocess
import sys

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

import ersparse
from ersparse.cli.overrides import flags_first, quoted_path
from ersparse.config.options import CONF

DRAW = ("method=draw", "dry_run=true")


@pytest.mark.parametrize("word", ["+seed=3", "+sparsity.level=0.5", "+method.name=draw", "+paths.root=x"])
def test_a_plus_before_an_existing_key_is_named(launch, word):
    status, printed = launch(*DRAW, word)
    assert status == 2 and "exists already; write" in printed and printed.count("\n") == 1


@pytest.mark.parametrize("word", ["++seed=3", "++sparsity.level=0.5"])
def test_two_pluses_override(launch, word):
    assert launch(*DRAW, word)[0] == 0


@pytest.mark.parametrize("flags, place", [(["--cfg", "job"], 0), (["-c", "job"], 1), (["--info", "defaults"], 2)])
def test_printing_flags_stand_anywhere_but_in_a_sweep(launch, capfd, flags, place):
    words = [*DRAW]
    words[place:place] = flags
    status, printed = launch(*words)
    assert status == 0, printed
    status, printed = launch("-m", *words, "seed=0,1")
    assert status == 2 and "must be used without -m" in printed and printed.count("\n") == 1


@pytest.mark.parametrize("path", [
    "/data/epoch=3-acc=0.9", "/data/My Drive (1)/run", "/data/[old]/run", "/data/{a}/run", "/data/it's/run",
    "/data/ünïcode/run", "relative run/", "/data/trailing/",
])  # fmt: skip
def test_any_path_is_read(launch, path):
    status, printed = launch(*DRAW, f"model.init_from={path}")
    assert status == 2 and printed.startswith(f"model.init_from={path}: ") and printed.count("\n") == 1


def test_any_path_of_a_density_file_is_read(launch):
    status, printed = launch(*DRAW, "sparsity=file", "sparsity.file=/data/a=b [c].json")
    assert status == 2 and printed.startswith("sparsity.file=/data/a=b [c].json: ")


def test_a_path_with_signs_is_written_to(launch, tmp_path):
    status, printed = launch("method=draw", f"paths.root={tmp_path}/a=b (c) [d]")
    assert status == 0, printed
    assert len(list((tmp_path / "a=b (c) [d]").rglob("run.json"))) == 1


def test_a_plain_path_is_left_alone():
    assert quoted_path("model.init_from=/data/run") == "model.init_from=/data/run"
    assert flags_first(["a=1", "--config-dir", "x", "b=2", "-m"]) == ["--config-dir", "x", "-m", "a=1", "b=2"]


def test_a_value_that_cannot_be_parsed_is_named_with_its_key(launch):
    status, printed = launch(*DRAW, "model.name=a=b(")
    assert status == 2 and printed.startswith("model.name=a=b(: cannot be parsed; quote the value")


def test_a_composed_configuration_runs(tmp_path, capsys):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[*DRAW, f"paths.root={tmp_path}"])
    folder = ersparse.run(config)
    assert folder.name == "s0" and not folder.exists()


@pytest.mark.parametrize("arguments", [["--help"], ["method=draw", "sed=1"]])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_narrow_encoding_replaces_characters(arguments, encoding, tmp_path):
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    environment = {"PYTHONIOENCODING": encoding, "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == (2 if "sed=1" in arguments else 0) and b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["method=draw", "--cfg", "job"]])
def test_a_closed_pipe_ends_quietly(arguments, tmp_path):
    command = f"'{sys.executable}' '{ROOT}/launch.py' {' '.join(arguments)} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
