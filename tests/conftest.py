"""What the tests share."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import joblib
import pytest
from hydra.core.global_hydra import GlobalHydra

from ersparse import cli
from ersparse.config.options import use_config_folders

# The networks of tests are too small for more; and threads of several processes would wait for one another's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Which a shell without job control has its background processes ignore, and they hand that on.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
KILLED = ["model.width=0.25", "trainer.max_epochs=8", "dataset.batch_size=128"]
TINY = ["model.width=0.25", "trainer.max_epochs=1", "dataset.batch_size=256"]  # a run of about a second


def pytest_configure(config):
    """Hide GPUs: their results differ from those of the CPU in the last bits, and each process takes memory there."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_xdist_auto_num_workers(config):
    """One for each core; none for tests that are named, which are sooner run than workers start, or share a cluster."""
    named = config.args_source is config.ArgsSource.ARGS
    return 0 if named or config.option.markexpr.startswith(("slurm", "gpu")) else min(joblib.cpu_count(), 8)


def paths_in(folder: Path) -> list[str]:
    return [f"paths.root={folder}/outputs", f"paths.cache={folder}/cache"]


def in_this_process(folder: Path, *words: str) -> tuple[int, str]:
    """Runs a command line, its outputs in `folder`: (status, what it printed on both streams)."""
    GlobalHydra.instance().clear()
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["launch.py", *paths_in(folder), *words])
        try:
            status = cli.launch()
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a command that was interrupted ignores it
    return status, out.getvalue() + err.getvalue()


@pytest.fixture(autouse=True)
def no_folders_of_options():
    """Forget those of command lines that a test has run in this process."""
    yield
    use_config_folders([])


@pytest.fixture
def launch(tmp_path):
    """Runs a command line in this process, its outputs in this test's folder: (status, what it printed)."""
    return partial(in_this_process, tmp_path)


def planned(*words: str):
    """The plan of a command line; nothing is created."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ersparse.config.groups import build
    from ersparse.config.options import CONF
    from ersparse.config.schema import Settings
    from ersparse.runs.planner import make_plan

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(words)), resolve=True)
    return make_plan(build(Settings, config))


@pytest.fixture(scope="session")
def refusal():
    """The one line with which a run is refused when it is planned, which creates nothing; much faster than `launch`."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    from ersparse.config.groups import build
    from ersparse.config.options import CONF
    from ersparse.config.schema import Settings
    from ersparse.errors import UserError
    from ersparse.runs.planner import make_plan
    from ersparse.sweep.compose import Composer

    composer = Composer(ConfigLoaderImpl(create_config_search_path(str(CONF))))

    def refused(*words: str) -> str:
        with pytest.raises(UserError) as error:
            make_plan(build(Settings, composer.compose(words)))
        return str(error.value)

    return refused


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    assert in_this_process(root, *TINY)[0] == 0
    return root


@pytest.fixture
def finished(finished_once, tmp_path):
    """The folder of a finished run of TINY, where `launch` would have left it."""
    shutil.copytree(finished_once / "outputs", tmp_path / "outputs")
    (record,) = (tmp_path / "outputs").rglob("run.json")
    return record.parent


@pytest.fixture
def only_run(tmp_path):
    """The one run folder under this test's outputs."""

    def find() -> Path:
        (record,) = (tmp_path / "outputs").rglob("run.json")
        return record.parent

    return find


@pytest.fixture
def process(tmp_path):
    """Starts `python launch.py ...` as a process of its own, its outputs in this test's folder."""

    def start(*words: str, **options) -> subprocess.Popen:
        command = [
            sys.executable,
            str(ROOT / "launch.py"),
            f"paths.root={tmp_path}/outputs",
            f"paths.cache={tmp_path}/cache",
            *words,
        ]
        environment = os.environ | options.pop("env", {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, cwd=tmp_path, **(pipes | options))

    return start


@pytest.fixture(scope="session")
def cifar_root():
    """The folder with the CIFAR files; tests that need it are skipped where there is none."""
    root = Path(os.environ.get("ERSPARSE_DATA", "data"))
    if not (root / "cifar10.npz").exists():
        pytest.skip("ERSPARSE_DATA names no folder with cifar10.npz")
    return root


def need_kernels(*types):
    """Compile the kernels, or skip the test where there is no compiler; sources that do not compile are a failure."""
    from ersparse.kernels import compile as compiling

    if not any(map(shutil.which, compiling.COMPILERS)):
        pytest.skip("there is no C++ compiler")
    compiling.library(*types)


def read(folder):
    return json.loads((folder / "run.json").read_text())


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def outcome(folder):
    """What must not depend on interruptions: weights, masks, every epoch's figures."""
    record = read(folder)
    assert record["state"] == "done"
    network = (folder / "network.safetensors").read_bytes()
    return network, (folder / "metrics.csv").read_text(), record["metrics"], record["mask_sha256"], record["layers"]


def kill_at(process, tmp_path, words, checkpoint):
    """Kill a run below "killed" when it has written that checkpoint."""
    run = process(*words, f"paths.root={tmp_path}/killed")
    while not list(tmp_path.glob(f"killed/runs/*/s0/checkpoints/{checkpoint}*")) and run.poll() is None:
        time.sleep(0.005)
    run.kill()
    run.communicate()


def killed_and_undisturbed(process, tmp_path, words, checkpoint):
    """Two (what was printed, run folder): of a run killed at that checkpoint and resumed, and of one left alone."""
    kill_at(process, tmp_path, words, checkpoint)
    return resumed_and_undisturbed(tmp_path, words)


def resumed_and_undisturbed(tmp_path, words, when_resumed=()):
    """The same of a run below "killed" that was killed before, and whose second command has further words."""
    found = []
    for root, more in (("killed", when_resumed), ("undisturbed", ())):
        status, printed = in_this_process(tmp_path, *words, *more, f"paths.root={tmp_path}/{root}")
        assert status == 0 and ("resuming after epoch" in printed) == (root == "killed"), printed
        found.append((printed, next((tmp_path / root).rglob("run.json")).parent))
    return found
