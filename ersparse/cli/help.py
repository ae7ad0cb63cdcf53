"""The text of `launch.py --help`, made from the files of conf/. Imports no torch."""

from __future__ import annotations

import textwrap
from typing import Any

import hydra
from omegaconf import OmegaConf

from ersparse.config.options import CONF, PROGRAM, groups, option_file, options_of

HIDDEN = ("_target_", "name", "defaults")

HELP_HEAD = """\
ersparse trains networks that start as sparse Erdős–Rényi random graphs; every run leaves a self-describing folder.

Examples
  python launch.py                                          default run: digits, resnet20, balanced 0.9; about a minute
  python launch.py model=vgg16 dataset=cifar10 sparsity=erk sparsity.level=0.99 seed=1
  python launch.py method=draw model=vgg19 dataset=cifar100 sparsity=pyramidal sparsity.level=0.999
  python launch.py model=resnet18 sparsity.budget=100000 dry_run=true      prints what would run, and creates nothing

Sweeps (-m): all jobs are checked before the first starts; the same command again resumes the sweep
  python launch.py -m sparsity=er,erk seed=0,1,2                            grid: every combination
  python launch.py -m "model,dataset=[vgg16,cifar10],[vgg19,cifar100]"      zipped keys: values are taken together
  python launch.py -m seed=0,1 sparsity=er,erk or sparsity=dense            union: the second grid keeps seed=0,1
  python launch.py -m seed=0,1 hydra.launcher.slots=1 dry_run=true          prints the jobs and their cost

Groups and their options (group=option)"""
HELP_FOOT = """
Launcher of sweeps (hydra.launcher.key=value)
  slots (null: one per GPU, or per core), jobs_per_gpu (1), time_limit (null; seconds per job)

The same command again resumes: finished runs are skipped, interrupted runs continue from their last checkpoint.
Options of your own: --config-dir FOLDER with <group>/<option>.yaml (docs/extending.md). Keys are explained in
docs/configuration.md; --hydra-help lists Hydra's own flags."""


def help_text() -> str:
    """Return the groups with their options, each with the first line of its file, and the keys of the default run."""
    lines = [HELP_HEAD.replace("python launch.py", " ".join(PROGRAM))]
    for group in groups():
        options = options_of(group)
        width = max(map(len, options)) + 2
        lines += [f"  {group}", *(line for option in options for line in _option_lines(group, option, width))]
    return "\n".join([*lines, "\nKeys and their defaults (key=value)", *_key_lines(), HELP_FOOT])


def _option_lines(group: str, option: str, width: int) -> list[str]:
    """Return an option with its first comment, wrapped; a user's own option also lists its keys."""
    file = option_file(group, option)
    text = file.read_text("utf-8").splitlines()
    comment = next((line[2:] for line in text if line.startswith("# ") and "@package" not in line), "")
    line = f"    {option:{width}}{comment}"
    if not file.is_relative_to(CONF):
        own = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        assert isinstance(own, dict)
        pairs = [f"{key!s} ({_plain(value)})" for key, value in own.items() if key not in HIDDEN]
        line += f" [{', '.join(pairs)}]" if pairs else ""
    return textwrap.wrap(line, 118, subsequent_indent=" " * (width + 4))


def _key_lines() -> list[str]:
    lines = []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("config"), resolve=False)
    assert isinstance(config, dict)
    for key, value in sorted(config.items(), key=lambda item: isinstance(item[1], dict)):
        if not isinstance(value, dict):
            lines.append(f"  {key} ({_plain(value)})")
            continue
        pairs = [f"{name} ({_plain(item)})" for name, item in value.items() if name not in HIDDEN]
        if pairs:
            lines += textwrap.wrap(f"{key}. {', '.join(pairs)}", 112, initial_indent="  ", subsequent_indent="      ")
    return lines


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
