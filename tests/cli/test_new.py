"""`ersparse new`: a project of one's own that runs, and refusals in one line."""

import subprocess
import sys

import pytest
import yaml

from ersparse.cli.new import main
from ersparse.errors import UserError


@pytest.fixture
def project(tmp_path, capsys):
    assert main([str(tmp_path / "my work")]) == 0
    assert "experiment=first" in capsys.readouterr().out
    yield tmp_path / "my work"
    sys.modules.pop("mine", None)
    sys.path[:] = [path for path in sys.path if not path.startswith(str(tmp_path))]


def test_the_preset_of_a_new_project_draws_its_own_network(launch, project, only_run):
    status, printed = launch("--config-dir", str(project / "conf"), "experiment=first", "method=draw")
    assert status == 0, printed
    config = yaml.safe_load((only_run() / "config.yaml").read_text())
    names = [config[group]["name"] for group in ("sparsity", "model", "dataset")]
    assert names == ["powerlaw", "small_net", "stripes"] and config["sparsity"]["level"] == 0.8


def test_a_new_project_has_no_files_of_its_template_but_those_of_a_project(project):
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    assert {".gitignore", "README.md", "conf/mine.py", "tests/test_mine.py"} <= files
    assert not any("__pycache__" in file or file == "gitignore" for file in files)


def test_an_empty_folder_is_filled(tmp_path):
    assert main([str(tmp_path)]) == 0 and (tmp_path / "conf/mine.py").is_file()


@pytest.mark.parametrize("name", ["full", "file", "file/below", "hidden"])
def test_other_folders_are_refused_and_left_alone(tmp_path, name):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden/.git").mkdir()
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        main([str(tmp_path / name)])
    assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_tests_of_a_new_project_pass(project):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr
