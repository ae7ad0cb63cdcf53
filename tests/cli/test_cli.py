"""The command line: what it refuses, in one line and before anything is created, and what it teaches."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from ersparse import cli
from ersparse.cli.help import HELP_HEAD

REFUSED = [
    (["sparsity.level=1.2"], "sparsity.level=1.2: must lie in [0, 1)"),
    (["sparsity.level=1"], "sparsity.level=1: must lie in [0, 1)"),
    (["sparsity.level=-0.1"], "sparsity.level=-0.1: must lie in [0, 1)"),
    (["sparsity.level=abc"], "sparsity.level=abc: must lie in [0, 1)"),
    (["sparsity.level=nan"], "sparsity.level=nan: must lie in [0, 1)"),
    (["sparsity.level=null"], "sparsity.level=null: must lie in [0, 1)"),
    (["sparsity.budget=21"], "sparsity.budget=21: must lie in [22, 270608], from one weight a layer to all"),
    (["sparsity.budget=270609"], "sparsity.budget=270609: must lie in [22, 270608], from one weight a layer to all"),
    (["sparsity.budget=0.5"], "sparsity.budget=0.5: must lie in [1, inf), and be an integer"),
    (["sparsity.flow=maybe"], "sparsity.flow=maybe: must be one of none, add, move, resample, released"),
    (["sparsity.flow=resample", "sparsity.level=0.999"], "sparsity.flow=resample: layer conv1.weight: resample needs"),
    (["sparsity.flow=resample", "sparsity.sampling=exact"], "sparsity.sampling=exact: must be bernoulli with"),
    (["sparsity.floor=40", "sparsity.level=0.99"], "sparsity=balanced: 2706 weights cannot be spread"),
    (["sparsity.control=shuffle"], "sparsity.control=shuffle: must be none, unless there is a mask: model.init_from"),
    (["sparsity=file"], "sparsity.file=null: must name a file of layer densities or a run folder"),
    (["sparsity=file", "sparsity.file=/nowhere"], "sparsity.file=/nowhere: cannot be read"),
    (["sead=3"], "sead: no such key; did you mean seed?"),
    (["+sead=3"], "sead: no such key; did you mean seed?"),
    (["sparsity.lvl=0.5"], "sparsity.lvl: no such key; did you mean sparsity.level?"),
    (["level=0.5"], "level: no such key; did you mean sparsity.level?"),
    (
        ["model=vgg17"],
        "model=vgg17: no such option; must be one of deit_small, mlp, resnet110, resnet18, resnet20, resnet50, "
        "resnet50_imagenet, timm, torchvision, vgg16, vgg19, vit_tiny, wrn28",
    ),
    (["seed=-1"], "seed=-1: must lie in [0, 9223372036854775807]"),
    (["seed=1.5"], "seed=1.5: must lie in [0, 9223372036854775807], and be an integer"),
    (["trainer.max_epochs=0"], "trainer.max_epochs=0: must lie in [1, inf)"),
    (["trainer.devices=1000"], "trainer.devices=1000: must lie in [1, "),
    (["trainer.precision=8"], "trainer.precision=8: must be one of auto, 32-true, bf16-mixed, 16-mixed"),
    (["model=vgg16", "dataset.image_size=8"], "dataset.image_size=8: too small for model=vgg16, must lie in [16, inf)"),
    (["model.width=0"], "model.width=0: must lie in (0, 64]"),
    (["model.init_from=/nowhere"], "model.init_from=/nowhere: has no network.safetensors"),
    (["optimizer.milestones=[0.5,2]"], "optimizer.milestones.1=2: must lie in (0, 1)"),
    (["optimizer.nesterov=true", "optimizer.momentum=0"], "optimizer.nesterov=true: needs optimizer.momentum above 0"),
    (["model.width=1e9"], "model.width=1000000000.0: must lie in (0, 64]"),
    (["model.name=a/b"], "model.name=a/b: must match"),
    (["method._target_=math.pi"], "method._target_=math.pi: must name a subclass of ersparse.methods.base.Method"),
    (["trainer.precision=16-mixed", "trainer=cpu"], "trainer.precision=16-mixed: must be one of auto, 32-true"),
    (["trainer.num_nodes=2"], "trainer.num_nodes=2: must be 1"),
    (["optimizer.lr=inf"], "optimizer.lr=inf: must lie in (0, inf)"),
    (["dataset.mean=[0.1,0.2]"], "dataset.mean=[0.1, 0.2]: must have one number for each of dataset.channels=1"),
    (["dataset.validation=0.0001"], "dataset.validation=0.0001: leaves 1437 training and 0 validation images"),
    (["dataset.flip=3"], "dataset.flip=3: must be a valid boolean, true or false"),
    (
        ["dataset=cifar10", "dataset.root=/nowhere", "dataset.download=false"],
        "dataset.root=/nowhere: no /nowhere/cifar10.npz",
    ),
]


@pytest.mark.parametrize("words, line", REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_refused(launch, tmp_path, words, line):
    status, printed = launch(*words)
    assert status == 2
    assert printed.startswith(line) and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_npz_is_refused(launch, tmp_path):
    (tmp_path / "cifar10.npz").write_bytes(b"PK\x03\x04 not really")
    status, printed = launch("dataset=cifar10", f"dataset.root={tmp_path}")
    assert status == 2 and "cifar10.npz: damaged" in printed and printed.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10.npz"]


def test_an_output_folder_that_cannot_be_written(launch, tmp_path):
    (tmp_path / "outputs").write_text("a file where a folder should be")
    status, printed = launch("method=draw")
    assert status == 2 and "cannot be written" in printed and printed.count("\n") == 1


@pytest.mark.skipif(os.environ.get("USER") == "root" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_folder(launch, tmp_path):
    (tmp_path / "outputs").mkdir(mode=0o500)
    status, printed = launch("method=draw")
    assert status == 2 and "cannot be written" in printed


def test_help_teaches_without_importing_torch():
    code = "import sys; sys.argv[1:] = ['--help']; from ersparse.cli import launch; launch(); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for word in ("Examples", "resnet110", "pyramidal", "tiny_imagenet", "sampling (bernoulli)", "seed (0)", "resumes"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("example", re.findall(r"^  (python launch\.py.*?)(?:   |$)", HELP_HEAD, re.MULTILINE))
def test_the_examples_of_help_are_commands(launch, tmp_path, example):
    _, _, *words = shlex.split(example)
    status, printed = launch("dry_run=true", *words)
    assert status == 0 and not list(tmp_path.iterdir()), printed


def test_a_bare_import_is_cheap():
    code = "import sys, ersparse; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_ersparse_command():
    def ersparse(*words):
        return subprocess.run([sys.executable, "-m", "ersparse", *words], cwd=ROOT, capture_output=True, text=True)

    assert ersparse("nonsense").returncode == 2 and "must be one of" in ersparse("nonsense").stderr
    assert ersparse().returncode == 0 and "ersparse run" in ersparse().stdout


def test_density_prints_and_plots(monkeypatch, capsys, tmp_path):
    out = tmp_path / "figure.png"
    monkeypatch.setattr(
        sys, "argv", ["ersparse", "density", "model=vgg19", "dataset=cifar100", "sparsity=erk,uniform", f"out={out}"]
    )
    assert cli.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["features.0.weight", "1,728", "1", "0.1"]
    assert len(lines) == 1 + 17 + 2 and lines[-2].split() == ["expected", "0.1", "0.1"]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_flow_is_that_of_the_runs(monkeypatch, capsys, launch, only_run, tmp_path):
    """The table's figures are those that runs record, with and without repair."""
    out, words = tmp_path / "flow.png", ["model=resnet20", "seed=3", "sparsity=erk"]
    monkeypatch.setattr(
        sys, "argv", ["ersparse", "density", "--flow", *words, "sparsity.level=0.8,0.995", f"out={out}"]
    )
    assert cli.main() == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in printed[2:4]] == ["0.8", "0.995"] and out.read_bytes().startswith(b"\x89PNG")
    for column, flow in ((4, "none"), (5, "move")):
        root = tmp_path / flow
        launch("method=draw", *words, "sparsity.level=0.995", f"sparsity.flow={flow}", f"paths.root={root}")
        record = json.loads(next(root.rglob("run.json")).read_text())
        zero = [sum(layer["zero_degree"][way] for layer in record["layers"]) for way in ("in", "out")]
        kept = {name: 1 - sparsity for name, sparsity in record["sparsity"].items()}
        assert [int(number.replace(",", "")) for number in printed[3][2:4]] == zero
        assert float(printed[3][column]) == pytest.approx(kept["effective"] / kept["realised"], abs=6e-5)


def test_density_refuses(monkeypatch, capsys):
    for word, line in (
        ("sparsity=erq", "sparsity=erq: no such option"),
        ("erk", "erk: must be group=option"),
        ("out=/nowhere/a.png", "out=/nowhere/a.png: there is no folder"),
        ("sead=3", "sead: no such key"),
        ("seed=-1", "seed=-1"),
        ("out=a.foo", "out=a.foo: must end in .png, .svg or .pdf"),
        ("--flow=1", "--flow: ignored explicit argument"),
        ("model.init_from=/a=b", "model.init_from=/a=b: has no network"),
        ("seed=0,1", "seed=0,1: must be a single value"),
        ("sparsity=null", "sparsity=null: must be one of balanced, "),
        ("sparsity=glob(x*)", "sparsity=glob(x*): must match an option"),
        ("--config-dir=/nowhere", "/nowhere: no such folder"),
        ("", "'': must be group=option"),
        ("--flaw", "--flaw: must be group=option or key=value, or --flow"),
    ):
        monkeypatch.setattr(sys, "argv", ["ersparse", "density", word])
        assert cli.main() == 2 and capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("out", [["out=FILE"], ["--out", "FILE"], ["--out=FILE"]])
def test_density_accepts_words_in_any_order_and_range_sweeps(monkeypatch, capsys, tmp_path, out):
    out = [word.replace("FILE", str(tmp_path / "a=b (1).svg")) for word in out]
    words = [*out, "seed=3", "--flow", "sparsity.level=range(0.5,0.9,0.2)", "sparsity=erk"]
    monkeypatch.setattr(sys, "argv", ["ersparse", "density", *words])
    assert cli.main() == 0 and (tmp_path / "a=b (1).svg").exists()
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:4]] == [["erk", "0.5"], ["erk", "0.7"]]


WRONG = [
    ("status --nope", "ersparse status: unrecognized arguments: --nope"),
    ("retry", "ersparse retry: the following arguments are required: folder"),
    ("retry . --slots 0", "--slots: 0: must be a whole number above 0"),
    ("retry . --slots x", "--slots: x: must be a whole number above 0"),
    ("export . --format x", "--format: invalid choice: 'x'"),
    ("report . --keep", "--keep: expected one argument"),
    (f"status {'a' * 300}", f"{'a' * 300}: no such folder"),
    ("theory weak =1", "=1: must be group=option or key=value"),
    ("nope", "ersparse nope: no such command"),
]


@pytest.mark.parametrize("line, start", WRONG, ids=[line[:20] for line, _ in WRONG])
def test_every_command_refuses_in_one_line(monkeypatch, capsys, line, start):
    monkeypatch.setattr(sys, "argv", ["ersparse", *line.split()])
    assert cli.main() == 2
    printed = capsys.readouterr().err
    assert printed.startswith(start) and printed.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a", "foo=1"], ["a", "--foo"]])
def test_rewiring_refuses_a_wrong_command_line(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["ersparse", "rewiring", *words])
    assert cli.main() == 2
    line = capsys.readouterr().err
    assert line.startswith("ersparse rewiring: ") and line.count("\n") == 1 and "[--out FILE] folder" in line


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe", b"step,layer,nonzero,grown\nx,y,z,1\n"])
def test_rewiring_refuses_a_damaged_table(monkeypatch, capsys, tmp_path, content):
    (tmp_path / "rewiring.csv").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["ersparse", "rewiring", str(tmp_path)])
    assert cli.main() == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path}/rewiring.csv: damaged, or not written by a run (")


@pytest.mark.parametrize("out, why", [("/nowhere/a.png", "cannot be written"), ("a.foo", "must end in .")])
def test_rewiring_refuses_an_output_that_cannot_be_written(monkeypatch, capsys, tmp_path, out, why):
    (tmp_path / "rewiring.csv").write_text("step,layer,nonzero,grown,overlap,explored,no_input\n0,a,9,0,1.0,1.0,0\n")
    monkeypatch.setattr(sys, "argv", ["ersparse", "rewiring", str(tmp_path), f"out={out}"])
    assert cli.main() == 2
    line = capsys.readouterr().err
    assert line.startswith(f"out={out}: {why}") and line.count("\n") == 1
