"""What can be seen of a flow file before it is imported.

Two mistakes leave no trace in an imported module: a function defined twice (Python keeps the second), and
``@pytest.mark.depends_on(flow_a)`` with a bare function (pytest takes it for the function to decorate, and Python
then *calls* it with the function below). Both are found in the syntax tree.
"""

from __future__ import annotations

import ast
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_flowforge.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_flowforge.plugin.naming import FunctionNames

__all__ = ["SourceScan", "bare_function_text", "line_of", "scan"]

#: Anything that looks like the definition of a function; strings may contain such lines, so it only hints.
_DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)

#: Anything that looks like the mark with something else than a string or nothing in it.
_BARE_MARK = re.compile(r"""mark\s*\.\s*depends_on\s*\(\s*[^\s"'rbfu)]|mark\s*\.\s*depends_on\s*\(\s*[rbfu][^"']""")


@dataclass(frozen=True, slots=True)
class SourceScan:
    """``functions``: the names of all task functions in the file. ``problems``: what is wrong with it already.

    ``importable`` is False when importing the file would do what nobody meant.
    """

    functions: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    importable: bool = True


def scan(path: Path, shown: str, names: FunctionNames) -> SourceScan:
    """Look through the file at *path*, called *shown* in messages.

    A file that can not be read or parsed gives an empty scan: importing it will say what is wrong.
    """
    try:
        with tokenize.open(path) as file:
            text = file.read()
        defined = [name for name in _DEFINITION.findall(text) if names.matches(name)]
        # A syntax tree of a large file takes longer to make than all the rest, and most files need none.
        if len(set(defined)) == len(defined) and not _BARE_MARK.search(text):
            return SourceScan(frozenset(defined))
        tree = ast.parse(text, filename=str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return SourceScan()
    bare = tuple(_bare_references(tree, shown, names))
    found = frozenset(node.name for body in _bodies(tree) for node in _functions(body) if names.matches(node.name))
    return SourceScan(found, (*_redefinitions(tree, shown, names), *bare), importable=not bare)


def line_of(path: Path, name: str) -> int | None:
    """The line (from 1) where *name* is first bound in the file at *path*, decorators included; None if not found."""
    try:
        with tokenize.open(path) as file:
            tree = ast.parse(file.read(), filename=str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = (_line_if_bound(node, name) for body in _bodies(tree) for node in body)
    return next((line for line in lines if line is not None), None)


def _line_if_bound(node: ast.stmt, name: str) -> int | None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return min((mark.lineno for mark in node.decorator_list), default=node.lineno) if node.name == name else None
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return node.lineno if name in {alias.asname or alias.name for alias in node.names} else None
    targets = [node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign)) else getattr(node, "targets", [])
    bound = {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return node.lineno if name in bound else None


_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """The module's own statements and those of each class in it (classes in classes too)."""
    pending: list[list[ast.stmt]] = [tree.body]
    while pending:
        body = pending.pop()
        yield body
        pending.extend(node.body for node in body if isinstance(node, ast.ClassDef))


def _functions(body: Sequence[ast.stmt]) -> Iterator[_Function]:
    return (node for node in body if isinstance(node, _Function))


def _redefinitions(tree: ast.Module, shown: str, names: FunctionNames) -> Iterator[Problem]:
    # Only within one list of statements: `if ...: def flow_a()` / `else: def flow_a()` is a choice, not a slip.
    for body in _bodies(tree):
        first: dict[str, int] = {}
        for node in _functions(body):
            if not names.matches(node.name):
                continue
            if _is_meant_to_repeat(node):
                continue
            if node.name in first:
                text = (
                    f"{node.name} is defined twice in the same place (first at line {first[node.name]}): "
                    "the second would silently replace the first; rename one of them"
                )
                yield Problem(f"{shown}:{node.lineno}", text)
            first.setdefault(node.name, node.lineno)


def _is_meant_to_repeat(node: _Function) -> bool:
    """Whether a decorator (overload, a property's setter, a dispatch) makes several definitions of one name."""
    return any(
        name in {"overload", "setter", "getter", "deleter", "register"}
        for mark in node.decorator_list
        for name in (_last_name(mark.func if isinstance(mark, ast.Call) else mark),)
    )


def _bare_references(tree: ast.Module, shown: str, names: FunctionNames) -> Iterator[Problem]:
    nodes = list(ast.walk(tree))
    imports = (node for node in nodes if isinstance(node, ast.ImportFrom))
    original = {alias.asname: alias.name for node in imports for alias in node.names if alias.asname}
    for node in nodes:
        if isinstance(node, ast.Call) and _is_depends_on_mark(node.func) and len(node.args) == 1:
            name = _last_name(node.args[0])
            name = original.get(name, name)
            if not node.keywords and name and names.matches(name):
                yield Problem(f"{shown}:{node.lineno}", bare_function_text(name, names))


def bare_function_text(function: str, names: FunctionNames) -> str:
    """How to write what ``pytest.mark.depends_on(function)`` was meant to say."""
    return (
        f"pytest.mark.depends_on({function}) with one bare function can not work: pytest takes {function} for the "
        f'function to decorate. Write @pytest.mark.depends_on("{names.task_name(function)}"), or '
        f"@pytest_flowforge.depends_on({function})"
    )


def _is_depends_on_mark(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "depends_on"
        and (
            (isinstance(node.value, ast.Attribute) and node.value.attr == "mark")
            or (isinstance(node.value, ast.Name) and node.value.id == "mark")
        )
    )


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
