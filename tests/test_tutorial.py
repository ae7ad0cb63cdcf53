"""The notebook docs/tutorial.ipynb: its cells run, and it is stored with their outputs."""

import glob
import json
import re
import shlex
import sys

import pytest
from conftest import ROOT, in_this_process, read

from ersparse import cli

CELLS = json.loads((ROOT / "docs/tutorial.ipynb").read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def issue(command, folder, monkeypatch):
    """Issues a command of a cell in this process."""
    words = [path for word in shlex.split(command) for path in (glob.glob(word) or [word])]
    assert words.pop(0) == "ersparse"
    if words[0] == "run":
        status, printed = in_this_process(folder, *words[1:])
        assert status == 0, printed
    else:
        monkeypatch.setattr(sys, "argv", ["ersparse", *words])
        assert cli.main() == 0


@pytest.mark.slow
def test_the_cells_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "tutorial"}
    for number, cell in enumerate(CODE):
        source = "".join(cell["source"])
        if source.startswith("%%bash\n"):
            for command in source.splitlines()[1:]:
                issue(command, tmp_path, monkeypatch)
        else:
            exec(compile(source, f"cell {number}", "exec"), names)
    assert names["right"].float().mean() > 0.85
    assert names["accuracy"] == pytest.approx(read(names["folders"][0])["metrics"]["test/acc"], abs=1.5 / 360)
    assert (tmp_path / "outputs/report/index.html").exists()


def test_it_is_stored_with_outputs_and_without_paths():
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert len(outputs) >= 6 and not any(output["output_type"] == "error" for output in outputs)
    assert not re.search(r"/(home|root|tmp|work)/", json.dumps(outputs))
    assert sum(len(json.dumps(output)) for output in outputs) < 20_000
