"""Imports inside `ersparse.report` point down: page and section, then tables and figures, then analysis, then paper."""

import ast

import pytest
from conftest import ROOT

REPORT = ROOT / "ersparse" / "report"
BELOW = {
    "paper": set(),
    "analysis": {"paper"},
    "tables": {"analysis"},
    "figures": {"analysis"},
    "keep": {"analysis"},
    "section": {"tables", "analysis", "paper"},
    "page": {"section", "tables", "figures", "analysis"},
}


def imported(path):
    """Return the parts of the report that a file imports, for types or at run time."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    modules = [f"{node.module}.{node.names[0].name}".split(".") for node in nodes if node.module]
    return {parts[2] for parts in modules if parts[:2] == ["ersparse", "report"]}


@pytest.mark.parametrize("part", BELOW)
def test_imports_point_down(part):
    files = list((REPORT / part).glob("*.py")) or [REPORT / f"{part}.py"]
    found = set().union(*map(imported, files))
    assert found - {part} <= BELOW[part]


def test_every_part_has_a_place():
    parts = {path.stem for path in REPORT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} == set(BELOW)
