"""Checks a wheel and an sdist: they have every file that the installed program reads, and nothing of the machine.

usage: python .ci/check_package.py dist
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ersparse/", "conf/", "hydra_plugins/")
UNWANTED = ("__pycache__", ".pyc", "conf/local", ".egg-info/PKG-INFO")


def tracked() -> list[str]:
    """Return the files of the packages that git tracks, but for documentation of the source."""
    names = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in names.stdout.splitlines() if name != "ersparse/kernels/README.md"]


def main(folder: Path) -> int:
    """Print what is missing or too much, and return the exit status."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    installed = {name.removeprefix("ersparse/") if name.startswith("ersparse/conf/") else name: None
                 for name in zipfile.ZipFile(wheel).namelist()}  # fmt: skip
    with tarfile.open(sdist) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    faults = [f"{wheel.name}: {name} is missing" for name in tracked() if name not in installed]
    faults += [f"{sdist.name}: {name} is missing" for name in tracked() if name not in source]
    faults += [f"{wheel.name}: {name}" for name in installed if any(part in name for part in UNWANTED)]
    print(*(faults or [f"{wheel.name} and {sdist.name} are complete"]), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
