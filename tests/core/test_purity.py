"""The core stays pure: what it imports says so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import pytest_flowforge.core

# What the core is made of. A new name here is a decision, not an accident.
ALLOWED = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "difflib",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "json",
    "math",
    "pytest_flowforge",
    "re",
    "reprlib",
    "types",
    "typing",
}

MODULES = sorted(Path(pytest_flowforge.core.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_core_module_imports_only_what_is_pure(path: Path) -> None:
    imported = {name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for name in _imports(node)}
    assert {name.partition(".")[0] for name in imported} <= ALLOWED
    ours = {name for name in imported if name.startswith("pytest_flowforge")}
    assert all(name.startswith(("pytest_flowforge.core.", "pytest_flowforge.errors")) for name in ours)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_core_module_opens_and_prints_nothing(path: Path) -> None:
    names = {node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
    assert names.isdisjoint({"open", "print", "input", "exec", "eval", "__import__"})


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.module, "relative imports are not used here"
        return [node.module]
    return []
