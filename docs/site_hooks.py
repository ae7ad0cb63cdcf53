"""Hooks of mkdocs: pages outside docs/ that its pages link to become part of the site, and links lead to them.

On GitHub a link such as ../results/README.md leads out of docs/. On the site that file lies at results/README.md.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    "results/**/*.md",
    "results/**/*.png",
    "results/**/*.csv",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "ersparse/kernels/README.md",
)
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?(?:\s\"[^\"]*\")?\))")


def on_config(config: Any) -> Any:
    """Take the addresses from pyproject.toml, unless they are the placeholders that it comes with."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    if "OWNER" not in urls["Repository"]:
        config.repo_url, config.site_url = urls["Repository"], urls["Documentation"]
        config.repo_name = "/".join(urls["Repository"].split("/")[-2:])
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links from the places of files in the repository to those on the site."""
    own = page.file.src_uri
    outside = own.startswith(("results/", "benchmarks/", "ersparse/")) or own in OUTSIDE
    place = own if outside else f"docs/{own}"

    def rewritten(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith(("/", "mailto:")):
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        there = there.removeprefix("docs/").replace("tutorial.ipynb", "tutorial.md")
        if files.get_file_from_path(there) is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(there, posixpath.dirname(own) or '.')}{match[3]}"

    return LINK.sub(rewritten, markdown)
