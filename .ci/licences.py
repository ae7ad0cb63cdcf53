"""Writes docs/dependencies.md, the licences of what ersparse needs, or with --check says where it is out of date.

usage: python .ci/licences.py [--check]     in an environment with every extra
"""

import re
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).resolve().parent.parent / "docs/dependencies.md"
PINS = PAGE.parent.parent / "constraints.txt"
EXTRAS = ("", "timm", "optuna", "onnx", "loggers")  # those that constraints.txt pins, and users of the program need
STATED = {"cuda-toolkit": "NVIDIA", "huey": "MIT", "skops": "MIT"}  # in their licence file only
NAMES = {  # what packages write, and its SPDX name
    "mit": "MIT", "mit license": "MIT", "the mit license (mit)": "MIT",
    "bsd": "BSD-3-Clause", "bsd license": "BSD-3-Clause", "bsd 3-clause": "BSD-3-Clause", "new bsd": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause", "bsd 3-clause license": "BSD-3-Clause", "3-clause bsd license": "BSD-3-Clause",
    "apache": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0", "apache license, version 2.0": "Apache-2.0", "apache 2": "Apache-2.0",
    "python software foundation license": "PSF-2.0", "isc license (iscl)": "ISC", "the unlicense (unlicense)": "Unlicense",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0", "nvidia proprietary software": "NVIDIA",
    "mit license, apache software license": "MIT OR Apache-2.0",
    "licenseref-nvidia-proprietary": "NVIDIA", "licenseref-nvidia-software-license": "NVIDIA",
}  # fmt: skip
HEAD = """\
# Dependencies and their licences

ersparse is under the MIT licence. `pip install ersparse` also installs these packages on Linux, each under its own licence; `.ci/licences.py` writes this page from the metadata of the versions in `constraints.txt`, and a check compares them. The SBOM of a release (`ersparse.cdx.json`, CycloneDX) lists exact versions.

NVIDIA's libraries come with PyTorch for Linux and are under NVIDIA's terms, which forbid changing them; PyTorch for CPUs alone needs none of them ([container](cluster.md#in-a-container)). The other licences allow use, change and redistribution; those of the packages under the MPL ask that changes of their own files are published.
"""


def licence(name: str) -> str:
    """Return the licence that a package states: its SPDX expression, its classifier, or its text's first line."""
    data = distribution(name).metadata
    if name in STATED:
        return STATED[name]
    stated = data.get("License-Expression")
    if not stated:
        classified = [item.rpartition(" :: ")[2] for item in data.get_all("Classifier") or [] if "License ::" in item]
        first = ((data.get("License") or "").strip().splitlines() or [""])[0].strip()
        stated = ", ".join(item for item in classified if item != "OSI Approved") or first
    return NAMES.get(stated.lower(), stated) or "not stated"


@cache
def pinned() -> set[str]:
    """Return the packages of constraints.txt; others, which change by themselves, would change the page."""
    return {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", PINS.read_text("utf-8"), re.M)}


def needed(texts: list[str], extra: str, found: dict[str, str]) -> None:
    """Add the packages that requirements name on this machine, and theirs, to `found`, with their licences."""
    for text in texts:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        key = canonicalize_name(requirement.name)
        if key not in pinned() or key in found:
            continue
        try:
            found[key] = licence(key)
        except PackageNotFoundError:  # of another platform
            continue
        for inner in ["", *requirement.extras]:
            needed(distribution(key).requires or [], inner, found)


def page() -> str:
    """Return the page: a table for the package, and one for what each extra adds."""
    project = tomllib.loads((PINS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    text, before = HEAD, dict[str, str]()
    for extra in EXTRAS:
        found = dict(before)
        needed(project["optional-dependencies"][extra] if extra else project["dependencies"], "", found)
        rows = [f"| {key} | {found[key]} |" for key in sorted(found) if key not in before]
        title = f"Added by `ersparse[{extra}]`" if extra else "Always"
        text += "\n".join(["", f"## {title}", "", "| package | licence |", "|---|---|", *rows, ""])
        before = found if not extra else before
    return text


def main(check: bool) -> int:
    """Write or compare the page, and return the exit status."""
    new, old = page(), PAGE.read_text("utf-8") if PAGE.exists() else ""
    if not check:
        PAGE.write_text(new, "utf-8")
    elif new != old:
        lines = set(new.splitlines()) ^ set(old.splitlines())
        print(f"{PAGE.name} is out of date; run python .ci/licences.py:", *sorted(lines), sep="\n  ")
        return 1
    else:
        print(f"{PAGE.name} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
