"""Package discovery, and README.md as PyPI shows it; everything else is in pyproject.toml.

`conf/` is installed as `ersparse/conf`.
"""

import re
import tomllib
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
RELATIVE_LINK = re.compile(r"(!?)\]\((?![a-z]+:|#)([^)\s]+)\)")


def readme() -> str:
    """Return README.md with links and pictures of the repository as absolute ones."""
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
    text = (ROOT / "README.md").read_text("utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:)([^)\s]+)\)", rf"\g<1>{repository}/raw/main/\g<2>)", text)
    return RELATIVE_LINK.sub(rf"\g<1>]({repository}/blob/main/\g<2>)", text)


setup(
    packages=[*find_packages(include=["ersparse", "ersparse.*"]), "ersparse.conf", "hydra_plugins"],
    package_dir={"ersparse.conf": "conf"},
    long_description=readme(),
    long_description_content_type="text/markdown",
)
