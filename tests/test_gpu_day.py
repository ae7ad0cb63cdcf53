"""benchmarks/gpu.sh: its checks, its summary and its table, without a GPU."""

import ast
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import gpu_day
from benchmarks.gpu_checks import Check
from benchmarks.gpu_report import table

SPEED = {"images_per_s": 50_000.0, "flops_per_image": 3e9, "memory_bytes": 2**31, "waits": 0}


def outcome(status, result=None, error=None):
    return {"status": status, "seconds": 1.0, "result": result, "error": error}


def test_a_failure_stops_no_other_check_and_the_summary_is_always_there(monkeypatch, tmp_path, capsys):
    seen = []

    def run_check(name, folder, seconds):
        seen.append(len(json.loads((folder / "summary.json").read_text())["checks"]) if seen else 0)
        return outcome("failed", error="RuntimeError: no") if name == "a" else outcome("ok", SPEED)

    monkeypatch.setattr(gpu_day, "CHECKS", {name: Check(lambda: {}, 1) for name in "abc"})
    monkeypatch.setattr(gpu_day, "run_check", run_check)
    gpu_day.main(tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())["checks"]
    assert seen == [0, 1, 2] and [found[name]["status"] for name in "abc"] == ["failed", "ok", "ok"]
    monkeypatch.setattr(gpu_day, "LIMIT", 0.0)
    gpu_day.main(tmp_path)
    found = json.loads((tmp_path / "summary.json").read_text())["checks"]
    assert {each["status"] for each in found.values()} == {"no time left"}


def test_the_table_has_speeds_shares_of_the_peak_and_what_failed():
    checks = {
        "machine": outcome("ok", {"name": "H100", "bf16_flops": 600e12}),
        "speed:resnet18 fixed masked": outcome("ok", SPEED),
        "speed:vgg16 fixed masked": outcome("out of time", error="epoch 1"),
        "abreast:1": outcome("ok", {"images_per_s": 100.0}),
        "abreast:8": outcome("ok", {"images_per_s": 450.0}),
        "tests": outcome("failed", {"last_line": "1 failed"}, "AssertionError"),
    }
    lines = table({"rehearsed": False, "seconds": 300, "checks": checks}).splitlines()
    assert lines[0] == "Measured on H100 by `benchmarks/gpu.sh` in 300 s."
    assert "| resnet18 fixed masked | 50,000 | 0.25 | 0 | 2.00 |" in lines
    assert "| vgg16 fixed masked | out of time: epoch 1 | | | |" in lines
    assert "| 8 | 450 | 4.50 |" in lines and "| tests | failed: AssertionError (1 failed) |" in lines


def _names(tree):
    """Return the names that a module binds, in whatever block."""
    bound = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                bound |= {alias.asname or alias.name for alias in aliases}
            case ast.Assign() | ast.AnnAssign():
                bound |= {target.id for target in ast.walk(node) if isinstance(target, ast.Name)}
    return bound


def test_what_benchmarks_import_from_the_project_is_there():
    """Also inside functions, which no import of the module runs."""
    sources = {path: ast.parse(path.read_text()) for path in (ROOT / "benchmarks").rglob("*.py")}
    imports = [
        (path.name, node.module, alias.name)
        for path, tree in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("benchmarks", "ersparse")
        for alias in node.names
    ]
    assert len(imports) > 60
    for importer, module, name in imports:
        folder = ROOT / module.replace(".", "/")
        if (folder / f"{name}.py").exists() or (folder / name).is_dir():
            continue
        source = folder.with_suffix(".py") if folder.with_suffix(".py").exists() else folder / "__init__.py"
        assert name in _names(ast.parse(source.read_text())), f"{importer}: {module} has no {name}"


@pytest.mark.slow
def test_checks_are_rehearsed_on_a_cpu(tmp_path):
    environment = os.environ | {"REHEARSE": "1", "ONLY": "machine,speed:resnet20 rigl,tests", "PYTHON": sys.executable}
    subprocess.run([str(ROOT / "benchmarks/gpu.sh"), str(tmp_path)], env=environment, cwd=tmp_path, check=True)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["rehearsed"] and [each["status"] for each in found["checks"].values()] == ["ok"] * 3, found
