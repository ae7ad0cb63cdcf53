"""README.md and docs/: what stands there runs, and links lead somewhere.

Each ```bash and ```python block is executed, unless the comment above it says what it needs, as in
`<!-- needs: SLURM -->`. Blocks that need a finished run are given one. A block that cannot be run and is not marked
fails its test.
"""

import ast
import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, paths_in, read

import ersparse
from ersparse import cli
from ersparse.config.options import CONF, options_of

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "benchmarks/README.md", ROOT / "ersparse/kernels/README.md"]
LINKED += sorted((ROOT / "results").rglob("README.md"))
BLOCK = re.compile(r"(?:<!-- needs: ([^>]*?) -->\s*\n)?^```(bash|python|yaml)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)(?:\s\"[^\"]*\")?\)")
PAGE_NEEDS = {"cluster.md": "SLURM"}
A_RUN = "a finished run"
SECONDS = 60  # for all blocks of a page


@dataclass(frozen=True)
class Block:
    needs: str | None
    language: str
    text: str
    line: int

    @property
    def runs(self) -> bool:
        return self.needs in (None, A_RUN)


def blocks_of(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    whole = PAGE_NEEDS.get(page.name)
    found = [Block(m[1] or whole, m[2], m[3], text[: m.start(3)].count("\n") + 1) for m in BLOCK.finditer(text)]
    return [block for block in found if block.language == language]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.runs for block in blocks_of(page, language))]


def commands_of(block: Block) -> list[str]:
    """The commands of a block, without comments; `&&` joins two."""
    lines = block.text.replace("\\\n", " ").splitlines()
    commands = [part.strip() for line in lines for part in line.split("&&")]
    return [command for command in commands if command and not command.startswith("#")]


@contextmanager
def time_limit(seconds: int):
    def over(number, frame):
        pytest.fail(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def cheaply(overrides: list[str]) -> list[str]:
    """Overrides under which a documented run only says what it would do; of presets, at the ends of their axes."""
    keys = {word.partition("=")[0] for word in overrides}
    added = [] if keys & {"--help", "dry_run"} else ["dry_run=true"]
    added += ["scale=smoke"] if "experiment" in keys and "scale" not in keys else []
    return added + (["model.width=0.25"] if "model.init_from" in keys else [])  # as the finished run has it


@pytest.fixture
def issue(launch, tmp_path, monkeypatch, capsys):
    """Issues a documented command, cheaply: runs are dry, and nothing is installed."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> None:
        words = shlex.split(command, comments=True)
        words = [os.path.expandvars(word) for word in words]
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        match words:
            case ["pip", "install", "-r", file, *_]:
                assert (ROOT / file).is_file()
            case ["python", "-m", "pytest", *rest]:
                assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
            case ["python", "launch.py", *rest] | ["ersparse", "run", *rest]:
                place = rest.index("-m") + 1 if "-m" in rest else 0
                status, printed = launch(*rest[:place], *cheaply(rest), *rest[place:])
                assert status == 0, f"{command}\n{printed}"
            case ["python", "-m", "ersparse", name, *rest] | ["ersparse", name, *rest]:
                rest = [word for word in rest if word != "--watch"]
                extra = paths_in(tmp_path) if name in ("run", "theory") else []
                monkeypatch.setattr(sys, "argv", ["ersparse", name, *rest, *extra])
                try:
                    status = cli.main()
                except SystemExit as exit_:
                    status = exit_.code
                assert not status, f"{command}\n{capsys.readouterr()}"
            case ["python", "-m", module, *_] if module.startswith("benchmarks"):
                assert importlib.util.find_spec(module)
            case _:
                pytest.fail(f"{command}: no test can run it; say what it needs in a comment above its block")

    return run


MANY_COMMANDS = ("methods.md", "sweeps.md")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in MANY_COMMANDS else [])
        for page in pages_with("bash")
    ],
)
def test_documented_commands_run(issue, finished, monkeypatch, page):
    monkeypatch.setenv("RUN", str(finished))
    with time_limit(SECONDS):
        for block in blocks_of(page, "bash"):
            for command in commands_of(block) if block.runs else ():
                issue(command)


@pytest.mark.parametrize("page", pages_with("python"), ids=lambda page: page.name)
def test_documented_python_runs(finished, tmp_path, monkeypatch, page):
    """The blocks of a page one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    names = {"run": finished, "__name__": "docs"}
    if any(block.needs == A_RUN for block in blocks_of(page, "python")):
        from ersparse.cli.export import main as export

        assert export([str(finished)]) == 0
    with time_limit(SECONDS):
        for block in blocks_of(page, "python"):
            if block.runs:
                source = "\n" * block.line + block.text  # so that a traceback has the line of the page
                exec(compile(source, str(page), "exec"), names)
    if page.name == "prediction.md":
        assert names["accuracy"] == pytest.approx(read(finished)["metrics"]["test/acc"], abs=1.5 / 360)


GROUP_OF = {
    "Density": "sparsity", "Pruner score": "sparsity", "Method": "method", "Model": "model", "Data set": "dataset",
    "Optimizer": "optimizer", "Schedule": "schedule", "Logger": "logger",
}  # fmt: skip


@pytest.fixture
def documented_extensions(tmp_path):
    """The folder that extending.md describes, made of its own blocks."""
    page, folder = ROOT / "docs/extending.md", tmp_path / "mine"
    folder.mkdir()
    (folder / "mine.py").write_text("\n".join(block.text for block in blocks_of(page, "python") if block.runs))
    for section in page.read_text().split("\n## ")[1:]:
        for text in re.findall(r"^```yaml\n(.*?)^```$", section, re.M | re.S):
            group, name = GROUP_OF[section.splitlines()[0]], yaml.safe_load(text)["name"]
            (folder / group).mkdir(exist_ok=True)
            (folder / group / f"{name}.yaml").write_text(text)
    yield folder
    sys.modules.pop("mine", None)
    sys.path[:] = [path for path in sys.path if path != str(folder)]


@pytest.mark.parametrize(
    "words",
    [
        ["sparsity=powerlaw", "sparsity.alpha=1.0", "method=draw"],
        ["sparsity=scaled_magnitude", "sparsity.allow_collapse=true", "method=draw"],
        ["sparsity.flow=mine.add_twice", "method=draw"],
        [*TINY, "method=rigl", "method.delta_t=2", "method.grow=mine.noisy_gradient"],
        ["model=net", "dataset=half", "sparsity.level=0.5", "method=draw"],
        [
            "dataset=half",
            "optimizer=lion_like",
            "schedule=halving",
            "method=noted",
            "logger=[lines,lightning_csv]",
            *TINY,
        ],
    ],
)
def test_documented_extensions_run(launch, documented_extensions, words):
    status, printed = launch("--config-dir", str(documented_extensions), *words)
    assert status == 0, printed


def test_the_sparsity_that_the_readme_prints(capsys):
    (block,) = blocks_of(ROOT / "README.md", "python")
    exec(compile(block.text, "README.md", "exec"), {})
    printed = ast.literal_eval(capsys.readouterr().out)
    assert printed["nominal"] == 0.9 and printed["realised"] == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_yaml_is_yaml(page):
    for block in blocks_of(page, "yaml"):
        assert isinstance(yaml.safe_load(block.text), dict)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_option_and_every_key_is_documented():
    """In configuration.md and methods.md; presets by the first and last of their names."""
    text = "".join((ROOT / "docs" / name).read_text() for name in ("configuration.md", "methods.md"))
    groups = [
        path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("experiment", "hydra", "local")
    ]
    missing = [f"{group}={option}" for group in groups for option in options_of(group) if f"`{option}`" not in text]
    sparsity = yaml.safe_load((CONF / "sparsity/_common.yaml").read_text())
    missing += [f"sparsity.{key}" for key in sparsity if f"`sparsity.{key}`" not in text]
    assert missing == []


def test_every_page_is_in_the_navigation_and_named_by_the_readme():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    readme = (ROOT / "README.md").read_text()
    for page in DOCS:
        assert page.name in navigation, page.name
        assert f"docs/{page.name}" in readme or page.name in ("index.md", "reference.md"), page.name


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
    for link in LINK.findall(text):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors_of(file), f"{page.name}: {link}"


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFC", head).lower()).replace(" ", "-") for head in headings}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/index.html").exists() and (tmp_path / "extending/index.html").exists()


def test_the_citation_names_the_paper():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = content["preferred-citation"]
    assert paper["title"] in (ROOT / "README.md").read_text() and len(paper["authors"]) == 3
    assert ersparse.__doc__ and content["cff-version"] == "1.2.0"
