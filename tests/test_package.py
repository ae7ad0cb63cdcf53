"""The package as a whole: every module imports by itself, layers hold, public names have types."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import ersparse

PACKAGES = sorted({path.parent for path in (ROOT / "ersparse").rglob("*.py") if "project" not in path.parts})
FORK_EACH = """
import importlib, os, sys, traceback
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(", ".join(failed) or 0)
"""
# Imported once, before forks: what takes seconds, and nothing of ersparse.
PRELOADED = """
import hydra, numpy, pydantic, pytorch_lightning, rich.console, scipy.optimize, torch, torchmetrics, torchvision
"""


@pytest.mark.slow
def test_every_module_imports_by_itself():
    """Each in a process that has imported no other module of ersparse: no import depends on their order."""
    paths = [path for folder in PACKAGES for path in sorted(folder.glob("*.py")) if path.name != "__main__.py"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    command = [sys.executable, "-W", "ignore", "-c", PRELOADED + FORK_EACH, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_package_imports_without_torch():
    code = "import sys, ersparse; sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names_are_found_and_listed():
    assert all(getattr(ersparse, name).__module__.startswith("ersparse.") for name in ersparse.__all__)
    assert set(ersparse.__all__) <= set(dir(ersparse)) and set(ersparse.__all__) == set(ersparse._TARGETS)
    with pytest.raises(AttributeError, match="no attribute 'sparsfy'"):
        ersparse.sparsfy  # noqa: B018


LOOP = """
import copy
from torch import Tensor, nn, optim

network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
optimizer = optim.SGD(network.parameters(), lr=0.1)
masks, record = ersparse.sparsify(network, "erk", 0.5, redraw=True, shape=(4,))
rigl = ersparse.rewire(network, optimizer, "rigl", steps=10, delta_t=2)
updated: bool = rigl.step()
rigl.load_state_dict(rigl.state_dict())
kept: dict[str, Tensor] = ersparse.prune(network, 0.6, by=lambda n: {k: p for k, p in n.named_parameters()})
total: tuple[str, float] = (str(ersparse.summary(network)), ersparse.summary(network).density_of_all)
plain: nn.Sequential = ersparse.remove_masks(copy.deepcopy(network))
ersparse.keep_masks(network, optimizer).remove()
callbacks = [ersparse.Rewire("set", delta_t=3), ersparse.Prune(0.9, every=3), ersparse.FixedMask()]
search = ersparse.edge_popup(network, min_keep=1)
search.set_level(0.8)
callbacks += [ersparse.EdgePopup(0.9, levels=2)]
ticket: dict[str, Tensor] = search.finish()
"""


@pytest.mark.slow
def test_type_checkers_see_the_public_names(tmp_path):
    """mypy knows what it checked before, so that this takes seconds; without its cache it takes half a minute."""
    names = [name for name in ersparse.__all__ if name != "UserError"]
    (tmp_path / "user.py").write_text(
        "import ersparse\n" + "".join(f"reveal_type(ersparse.{n})\n" for n in names) + LOOP
    )
    command = [sys.executable, "-m", "mypy", str(tmp_path / "user.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    shown = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    assert done.returncode == 0 and len(shown) == len(names), done.stdout
    assert not any('type is "Any"' in line for line in shown) and "nn.modules.module.Module" in done.stdout, shown
    assert (ROOT / "ersparse/py.typed").exists()


def test_imports_point_down_only():
    program = shutil.which("lint-imports", path=f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_tests_do_not_see_a_gpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
