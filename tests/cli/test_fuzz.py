"""Random command lines: never a traceback, a status that is documented, and nothing created by a refusal.

100 in the suite; ERSPARSE_FUZZ=2000 tries as many, and others at each call.
"""

import io
import os
import signal
import sys
import tempfile
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

from ersparse import cli
from ersparse.cli.commands import SUBCOMMANDS
from ersparse.config.options import all_keys, groups, options_of
from ersparse.errors import UserError

EXAMPLES = os.environ.get("ERSPARSE_FUZZ")

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
signs = st.text("ab01.,=:[]{}()'\"\\$ ~+@*?#%/-|&;<>\n\té×", max_size=10)
number = st.one_of(st.integers(-2, 5), st.floats(0, 1), st.sampled_from(["1e-3", "inf", "nan", "1e999", "007", "0x1"]))
option = st.sampled_from([name for group in groups() for name in options_of(group)])
interpolation = st.sampled_from([
    "${seed}", "${oc.env:HOME}", "${oc.env:NOPE}", "${oc.env:NOPE,2}", "${nope}", "${", "${hydra:job.num}", "${.level}",
    "${oc.decode:'3'}", "${oc.env:}", "${:}", "???", "${sparsity}",
])  # fmt: skip
sweep = st.sampled_from([
    "1,2", "er,erk", "glob(*)", "glob(er*)", "choice(1,2)", "range(3)", "range(0,1,0.5)", "interval(0,1)", "sort(2,1)",
    "shuffle(1,2)", "tag(a,choice(1))", "int(3.5)", "str(1)", "bool(x)", "choice()", "[1,2],[3,4]", "1,", ",", "glob()",
])  # fmt: skip
plain = st.sampled_from(["null", "true", "false", "", "a" * 300, "/nowhere", "~/x", "[]", "{}", "{a:1}", "[[1],2]"])
value = st.one_of(plain, number.map(str), option, interpolation, sweep, signs, text)
quoted = st.builds(lambda mark, inner: mark + inner + mark, st.sampled_from(["'", '"', "\\'"]), value)

hydra_key = st.sampled_from([
    "hydra", "hydra.run.dir", "hydra.output_subdir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir",
    "hydra.job.name", "hydra.mode", "hydra.verbose", "hydra.searchpath", "hydra.sweeper.params", "hydra.sweeper.words",
    "hydra.launcher.slots", "hydra.launcher.time_limit", "hydra.launcher._target_", "hydra.sweeper._target_",
    "hydra.sweeper.n_trials", "hydra.sweeper.direction", "hydra.sweeper.sampler", "hydra.sweeper.study_name",
    "hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra.callbacks", "hydra.job.env_set", "hydra.nope",
])  # fmt: skip
key = st.one_of(st.sampled_from(sorted(all_keys())), st.sampled_from(groups()), hydra_key, signs, text)
prefix = st.sampled_from(["", "", "", "", "+", "++", "~"])
package = st.sampled_from(["", "", "", "", "", "@model", "@:x", "@"])
override = st.builds("{}{}{}={}".format, prefix, key, package, st.one_of(value, quoted))
zipped = st.builds("{},{}={}".format, key, key, value)
flag = st.sampled_from([
    "-m", "--multirun", "--run", "--cfg", "--cfg=job", "job", "all", "hydra", "--info", "defaults", "searchpath",
    "--package", "--package=model", "-p", "--resolve", "--help", "-h", "--hydra-help", "--version", "--config-dir",
    "--config-dir=nope", "-cd", "--config-name=x", "--config-path=x", "--experimental-rerun", "-sc", "query=bash", "--",
    "-", "--nope", "or", "~", "~seed", "~model", "+", "=", "--flow", "--json", "--keep", "--format", "onnx", "--out",
    "--slots", "--slots=0", "--watch", "out=x.png", "out=", ".", "/etc/passwd", "weak", "p=0.5,", "--no-such=1", "-x",
])  # fmt: skip
word = st.one_of(override, override, override, flag, zipped, text)
single = st.tuples(st.just("run"), st.lists(word, max_size=3))
searched = st.builds("{}={}".format, key, st.sampled_from([
    "interval(0.1,0.9)", "range(1,4)", "choice(a,b)", "tag(log,interval(1e-4,1))", "int(interval(1,9))", "0.1,0.2",
]))  # fmt: skip
searching = st.tuples(st.just("run"), st.lists(st.one_of(searched, word), max_size=3).map(
    lambda words: ["-m", "hydra/sweeper=optuna", *words]
))  # fmt: skip
sweeping = st.tuples(st.just("run"), st.lists(word, max_size=3).map(lambda words: ["-m", *words]))
command = st.tuples(st.sampled_from([*SUBCOMMANDS, "nope", ""]), st.lists(word, max_size=3))


@pytest.fixture
def nothing_runs(monkeypatch, tmp_path):
    """Stops every command where it would start to compute, download or wait."""
    monkeypatch.setenv("ERSPARSE_DATA", str(tmp_path / "data"))
    for target in ("ersparse.runs.run._execute", "ersparse.theory.run.execute", "ersparse.cli.density.plot_densities"):
        monkeypatch.setattr(target, lambda *_, **__: None)
    monkeypatch.setattr("ersparse.runs.run.resolve_source", lambda plan, *_: plan)
    for target in ("ersparse.runs.run.load_arrays", "ersparse.cli.density.load_arrays"):
        monkeypatch.setattr(target, _refuse)
    for target in ("local.launcher.LocalLauncher", "slurm.launcher.SlurmLauncher"):
        for start in ("run", "search"):
            monkeypatch.setattr(f"ersparse.sweep.{target}.{start}", lambda *_: 0)
    monkeypatch.setattr("ersparse.cli.status.time", SimpleNamespace(sleep=_interrupt))


def _refuse(*_):
    raise UserError("dataset.root: no images")


def _interrupt(_):
    raise KeyboardInterrupt


def run(name, words):
    """Return (status, stderr, files created) of a command in a new folder."""
    GlobalHydra.instance().clear()
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    with tempfile.TemporaryDirectory() as folder, chdir(folder), redirect_stdout(out), redirect_stderr(err):
        sys.argv = ["ersparse", *([name] if name else []), *words]
        try:
            status = cli.main()
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        finally:
            sys.path[:] = path
            signal.signal(signal.SIGINT, signal.default_int_handler)
        created = sorted(file.name for file in Path(folder).rglob("*"))
    return status, err.getvalue(), created


@pytest.mark.usefixtures("nothing_runs")
def test_no_command_line_ends_in_a_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", [])

    @settings(max_examples=int(EXAMPLES or 100), deadline=None, derandomize=not EXAMPLES, database=None)
    @given(st.one_of(single, sweeping, searching, command))
    def check(example):
        status, printed, created = run(*example)
        assert status in (0, 1, 2, 130)
        assert "Traceback" not in printed
        assert status != 2 or (not created and printed.count("\n") == 1), (printed, created)

    check()
