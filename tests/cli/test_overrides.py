"""Command lines that users of Hydra write, in any order, with any path."""

import json
import shlex
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

import ersparse
from ersparse.cli.overrides import flags_first, quoted_path
from ersparse.config.hydra_errors import explain
from ersparse.config.options import CONF
from ersparse.errors import UserError
from ersparse.sweep.local.launcher import LocalLauncher

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


REFUSED = [
    (["--cfg", "nope"], "--cfg/-c: invalid choice: 'nope'"),
    (["--nope"], "--nope: no such flag"),
    (["--resolve"], "--resolve: must be used with --cfg job"),
    (["--package", "model"], "--package: must be used with --cfg job"),
    (["--cfg", "job", "--package", "nope"], "package 'nope' not found"),
    (["--run", "-m", "seed=0,1"], "Only one of --run, --multirun"),
    (["--cfg", "job", "--run"], "--cfg: must be used without --run"),
    (["--shell-completion"], "Expecting one subcommand"),
    (["model=null"], "model=null: must be one of deit_small, "),
    (["hydra=null"], "hydra=null: must be one of"),
    (["hydra.sweeper=null", "-m"], "hydra.sweeper=null: must be one of grids"),
    (["hydra/launcher=joblib", "-m"], "hydra/launcher=joblib: no such option; must be one of local, slurm"),
    (["hydra.launcher._target_=foo", "-m"], "Invalid plugin 'foo'"),
    (["hydra.sweeper.words=3", "-m"], "hydra.sweeper.words=3: must be a list"),
    (["hydra.sweeper.params=3", "-m"], "hydra.sweeper.params: must be a mapping"),
    (["hydra.run.dir=x"], "hydra.run.dir=x: must be ."),
    (["hydra.output_subdir=.hydra"], "hydra.output_subdir=.hydra: must be null"),
    (["hydra.job.chdir=true"], "hydra.job.chdir=true: must be false"),
    (["hydra/job_logging=default"], "hydra/job_logging=default: must be none or"),
    (["=1"], "=1: must be group=option or key=value"),
    ([""], "'': must be group=option or key=value"),
    (["seed"], "seed: must be group=option or key=value"),
    (["model={a:1}"], "model: must name an option, as in model=deit_small"),
    (["model=[resnet20,vgg16]"], "model=[resnet20,vgg16]: must be one option, since Hydra would mix several"),
    (["sparsity=[erk]"], "sparsity=[erk]: must be one option"),
    (["-m", "method=fixed,[rigl,set]"], "method=fixed,[rigl,set]: must be one option"),
    (["+dataset=[digits,cifar10]"], "+dataset=[digits,cifar10]: must be one option"),
    (["+model=vgg16"], "+model=vgg16: the group has an option already; write model=vgg16 without +"),
    (["++model=vgg16"], "++model=vgg16: the group has an option already; write model=vgg16 without ++"),
    (["logger=[]"], "logger=[]: must be one of csv, mlflow, tensorboard, wandb, or several of them"),
    (["experiment=../../etc"], "experiment=../../etc: no such option; must be one of "),
    (["sparsity.include=[]"], "sparsity.include=[]: leaves no layer to prune"),
    (["sparsity.exclude=['*']"], "sparsity.exclude=[*]: leaves no layer to prune"),
    (['sparsity.layers={"*":0}'], 'sparsity.layers={"*":0}: must have no quotes around the keys of a mapping; write '),
    (["sparsity.layers={'a'b:0.5}"], "sparsity.layers={'a'b:0.5}: cannot be parsed; quote the value"),
    (["~sparsity.nope"], "sparsity.nope: no such key"),
    (["~sparsity.file"], "~sparsity.file: has no value that could be removed"),
    (["method.delta_t=5"], "method.delta_t: no such key of this method; other options of the group have it"),
    (["seed=${nope}"], "seed: interpolation key 'nope' not found"),
    (["seed=${seed}"], "seed: recursive interpolation"),
    (["seed=${oc.env:NO_SUCH_NAME}"], "seed: the environment variable NO_SUCH_NAME is not set"),
    (["seed=0,1"], "seed=0,1: several values are a sweep, which needs -m"),
    (["sparsity=glob(er*)"], "sparsity=glob(er*): several values are a sweep; add -m"),
    (["-m", "sparsity=glob(x*)"], "sparsity=glob(x*): must match an option of sparsity"),
    (["paths.root="], "paths.root=: must name a folder"),
    (["dry_run=1"], "dry_run=1: must be a valid boolean, true or false"),
    (["sparsity = erk"], "sparsity = erk: must have no spaces before =; write sparsity=erk"),
    (["seed =3"], "seed =3: must have no spaces before =; write seed=3"),
    (["-m", "seed = 1,2"], "seed = 1,2: must have no spaces before =; write seed=1,2"),
    (["sparsity", "=", "erk"], "=: must be group=option or key=value"),
    (["-m", "'seed=1,2'"], "'seed=1,2': must have no quotes around the key; write seed=1,2"),
    (['"sparsity=erk"'], '"sparsity=erk": must have no quotes around the key; write sparsity=erk'),
    (["-m", "sparsity='er,erk'"], "sparsity=er,erk: no such option; must be one of balanced"),
    (["-m", "seed='1,2'"], "seed=1,2: must lie in [0, 9223372036854775807], and be an integer; several values for -m"),
    (["-m", 'sparsity.level="0.5,0.9"'], "sparsity.level=0.5,0.9: must lie in [0, 1); several values for -m"),
    (["model.name='a,b'"], "model.name=a,b: must match pattern '^[A-Za-z0-9_.-]+$'; several values for -m"),
    (["~seed", "seed=3"], "seed: is not in this configuration, since ~seed or --config-name has left it out"),
    (["~paths", "paths.root=x"], "paths.root: is not in this configuration, since ~paths"),
]


@pytest.mark.parametrize("words, line", REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_what_is_not_taken_is_said_in_one_line(launch, tmp_path, capfd, words, line):
    status, printed = launch("method=draw", *words)
    printed = printed or capfd.readouterr().err
    assert status == 2 and printed.startswith(line) and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words, folder", [
    (["seed='3'"], "s3"), (["seed=${oc.env:NUMBER}"], "s7"), (['sparsity.level="0.9"', "fresh='True'"], "s0"),
    (["experiment=null"], "s0"),
])  # fmt: skip
def test_a_text_that_spells_a_number_is_one(launch, monkeypatch, words, folder):
    """Environment variables are texts in any case."""
    monkeypatch.setenv("NUMBER", "7")
    status, printed = launch(*DRAW, *words)
    assert status == 0 and f"balanced0.9-draw-808a69e7/{folder}\n" in printed


SWEEPS = ["hydra/sweeper=basic seed=0,1", "sparsity=glob(er*)", "hydra.sweeper.params={seed:'0,1'}", "seed=choice(0,1)"]


@pytest.mark.parametrize("words", SWEEPS)
def test_a_dry_run_of_any_sweep_lists_its_jobs_and_creates_nothing(launch, tmp_path, words):
    status, printed = launch("-m", *DRAW, *words.split())
    assert status == 0 and printed.endswith("2 jobs\n")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_foreign_sweeper_lists_its_jobs(monkeypatch, capsys):
    """Other sweepers pass overrides to the launcher, not jobs."""
    monkeypatch.setattr(LocalLauncher, "run", None)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        launcher = LocalLauncher()
        launcher.hydra_context = SimpleNamespace(config_loader=GlobalHydra.instance().config_loader())
        launcher.config = compose("config", return_hydra_config=True)
        with pytest.raises(SystemExit) as exit_:
            launcher.launch([[*DRAW, "seed=0"], [*DRAW, "seed=1"]], 0)
    assert exit_.value.code == 0 and capsys.readouterr().out.endswith("2 jobs\n")


@pytest.mark.parametrize("path", ["2024", "1e3", "true", "a,b", "[a]", "{a:b}", "~/x", "a=b", "x/"])
@pytest.mark.parametrize("plus", ["", "++"])
def test_a_root_of_any_name(launch, monkeypatch, path, plus):
    monkeypatch.setenv("HOME", "/home/mine")
    status, printed = launch(*DRAW, f"{plus}paths.root={path}")
    expected = path.replace("~", "/home/mine").rstrip("/")
    assert status == 0 and f" {expected}/runs/resnet20" in printed


@pytest.mark.parametrize("words", [
    ["paths.root"], ["dataset.root"], ["model.init_from"], ["sparsity=file", "sparsity.file"],
])  # fmt: skip
def test_a_path_that_is_too_long_is_refused(launch, words):
    *group, key = words
    status, printed = launch("method=fixed", *group, f"{key}={'a' * 300}")
    assert status == 2 and printed == f"{key}={'a' * 300}: file name too long\n"


def test_numbers_of_numpy_and_pytorch_and_paths_are_taken(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        values = OmegaConf.to_container(compose("config", overrides=["method=draw"]), resolve=True)
    values |= {"seed": np.int64(3), "fresh": np.bool_(False), "paths": {"root": tmp_path, "cache": tmp_path / "cache"}}
    values["sparsity"] |= {"level": torch.tensor(0.5), "budget": None, "floor": np.float32(0)}
    values["optimizer"]["milestones"] = np.array([0.5, 0.75])
    folder = ersparse.run(values)
    assert folder == tmp_path / "runs" / folder.parent.name / "s3" and "balanced0.5-draw" in folder.parent.name
    assert json.loads((folder / "run.json").read_text())["config"]["optimizer"]["milestones"] == [0.5, 0.75]


@pytest.mark.parametrize("config", [None, 3, "seed=3", [1]])
def test_what_is_no_configuration_is_refused(config):
    with pytest.raises(ersparse.UserError, match="^config=.*: must be a mapping of groups and keys"):
        ersparse.run(config)


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


@pytest.mark.parametrize("value", ["a=b(", "it's(", '"', '\\"(', "(\\", "'3", "(é,", "[", "{\"a'", 'a"b\\'])
def test_the_quotes_that_a_refusal_proposes_are_right(value):
    """A shell takes the proposed word apart, and Hydra reads the value as it was written."""
    with pytest.raises(OverrideParseException) as refused:
        OverridesParser.create().parse_overrides([f"model.name={value}"])
    (word,) = shlex.split(explain(refused.value).partition("quote the value, as in ")[2])
    assert OverridesParser.create().parse_override(word).value() == value


@pytest.mark.parametrize("word, value", [
    ('sparsity.layers={"*":0.5}', {"*": 0.5}), ("a={'b.*' : {c: 1},\"d\":2}", {"b.*": {"c": 1}, "d": 2}),
])  # fmt: skip
def test_the_mapping_that_a_refusal_proposes_is_right(word, value):
    (proposed,) = shlex.split(explain(OverrideParseException(word, "")).partition("write ")[2])
    assert OverridesParser.create().parse_override(proposed).value() == value


@pytest.mark.parametrize("words", [["seed=3"], ["-m", "seed=1,2"], ["seed=("], ["--nope"], ["hydra/launcher=slurm"]])
def test_hydra_help_needs_no_configuration(launch, words):
    status, printed = launch("--hydra-help", *words)
    assert status == 0 and printed.startswith("Hydra (")


@pytest.mark.parametrize("changed", [
    lambda config: config, dict, OmegaConf.to_container, partial(OmegaConf.to_container, resolve=True),
    lambda config: OmegaConf.create(OmegaConf.to_yaml(config)), lambda config: OmegaConf.merge(config, {"seed": 0}),
])  # fmt: skip
@pytest.mark.parametrize("with_hydra", [False, True])
def test_a_composed_configuration_runs(tmp_path, capsys, changed, with_hydra):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [*DRAW, f"paths.root={tmp_path}"]
        config = compose("config", overrides=words, return_hydra_config=with_hydra)
    if changed is OmegaConf.to_container:
        with pytest.raises(UserError, match=r"^trainer.max_epochs=\$\{dataset.epochs\}: "):
            ersparse.run(changed(config))
        return
    folder = ersparse.run(changed(config))
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
