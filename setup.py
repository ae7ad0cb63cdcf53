"""Package discovery; everything else is in pyproject.toml. `conf/` is installed as `ersparse/conf`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ersparse", "ersparse.*"]), "ersparse.conf", "hydra_plugins"],
    package_dir={"ersparse.conf": "conf"},
)
