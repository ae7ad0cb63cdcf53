"""Hook of mkdocs: the report of results/, as `ersparse report results` writes it, beside the page of the results."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
FRAME = '\n\n## Report\n\n<a href="report/">All runs on one page</a>, as `ersparse report results` writes it:\n\n'
FRAME += '<iframe class="report" src="report/" title="Report of all runs" loading="lazy"></iframe>\n'

serving = False


def on_startup(command: str, dirty: bool) -> None:
    """Note whether the site is served while it is written, which should not wait for the report."""
    global serving
    serving = command == "serve"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Embed the report in the page of the results."""
    return markdown + FRAME if page.file.src_uri == "results/README.md" and not serving else markdown


def on_post_build(config: Any) -> None:
    """Write the report into the site; its links to run folders lead to the repository."""
    if serving:
        return
    out = Path(config["site_dir"], "results/report")
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").write_text(_with_links_to(_repository(), _report()), "utf-8")


def _report() -> str:
    """Return the page, without writing into results/."""
    from ersparse.cli.report import main

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "results")
        shutil.copytree(ROOT / "results", root, ignore=shutil.ignore_patterns("report"))
        with redirect_stdout(io.StringIO()):
            main([str(root)])
        return (root / "report/index.html").read_text("utf-8")


def _repository() -> str | None:
    """Return the address of the repository, or None while it is a placeholder."""
    address: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
    return None if "OWNER" in address else address


def _with_links_to(repository: str | None, html: str) -> str:
    """Replace the addresses of run folders, which the site does not have."""
    if repository:
        return re.sub(r'href="\.\./', f'href="{repository}/tree/main/results/', html)
    return re.sub(r'<a href="\.\./[^"]*">(.*?)</a>', r"\1", html)
