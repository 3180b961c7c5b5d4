"""Which of the collected tasks a session is about.

pytest collects only what a node id names; a graph needs the rest of the file too. So node ids are taken out of the
arguments before collection and become a choice among the tasks, like ``--ff-select``; ``-k``, ``-m``, ``--deselect``
and ``--lf`` choose by the hooks of pytest. What is left is what was asked for; the graph adds what it needs.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.core.selection import parse_expression
from pytest_flowforge.errors import SelectionError
from pytest_flowforge.plugin.references import BadReference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.references import Directory

__all__ = ["NodeIds", "by_expressions", "only_one", "take_node_ids"]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One argument: a file or folder, and what was asked for in it (empty: everything)."""

    text: str
    path: Path
    inside: str


class NodeIds:
    """The node ids of the command line, as a choice among collected items."""

    def __init__(self, wanted: Sequence[_Wanted]) -> None:
        self._wanted = tuple(wanted)

    def __bool__(self) -> bool:
        return any(wanted.inside for wanted in self._wanted)

    def choose(self, items: Sequence[pytest.Item]) -> list[pytest.Item]:
        """Those of *items* that the arguments name; raises UsageError for an argument that names none."""
        by_name = _index(items)
        chosen: dict[pytest.Item, None] = {}
        for wanted in self._wanted:
            found = by_name.get((wanted.path, wanted.inside), []) if wanted.inside else _below(items, wanted.path)
            if not found and wanted.inside:
                raise pytest.UsageError(_not_found(wanted, items))
            chosen.update(dict.fromkeys(found))
        return [item for item in items if item in chosen]


def take_node_ids(config: pytest.Config) -> NodeIds:
    """Reduce the arguments of the session to files and folders; return what they named more exactly."""
    wanted = []
    arguments: dict[str, None] = {}
    for text in config.args:
        # A parameter may contain "::" itself.
        plain, bracket, variant = text.partition("[")
        file, _, inside = plain.partition("::")
        if inside and config.getoption("pyargs") and not Path(file).exists():
            arguments[text] = None
            continue
        # As pytest does it: absolute, symbolic links left alone.
        path = Path(os.path.abspath(config.invocation_params.dir / (file if inside else text)))  # noqa: PTH100
        wanted.append(_Wanted(text, path, f"{inside}{bracket}{variant}" if inside else ""))
        arguments[file if inside else text] = None
    config.args[:] = arguments
    return NodeIds(wanted)


def by_expressions(
    expressions: Iterable[str], graph: TaskGraph, directory: Directory, option: str = "--ff-select"
) -> frozenset[TaskId]:
    """The tasks that *option* chooses; several of them are joined. Raises UsageError."""

    def resolve(text: str) -> list[TaskId]:
        try:
            return [entry.id for entry in directory.lookup(text)]
        except BadReference as error:
            raise SelectionError(str(error)) from None

    chosen: set[TaskId] = set()
    for text in expressions:
        try:
            chosen |= parse_expression(text).evaluate(graph, resolve)
        except SelectionError as error:
            msg = f"{option}: {error}"
            raise pytest.UsageError(msg) from None
    return frozenset(chosen)


def only_one(text: str, directory: Directory) -> TaskId:
    """The one task that ``--ff-replay`` means. Raises UsageError."""
    try:
        found = [entry.id for entry in directory.lookup(text)]
    except BadReference as error:
        msg = f"--ff-replay: {error}"
        raise pytest.UsageError(msg) from None
    if len(found) > 1:
        msg = f"--ff-replay {text}: this means {len(found)} tasks, and one can be replayed: write {found[0]!r}"
        raise pytest.UsageError(msg)
    return found[0]


def _index(items: Iterable[pytest.Item]) -> dict[tuple[Path, str], list[pytest.Item]]:
    """Items by file and everything they can be asked for by: class, function, function with parameters."""
    index: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        inside = _inside(item)
        plain = inside.partition("[")[0]
        parts = plain.split("::")
        names = {inside, *("::".join(parts[: count + 1]) for count in range(len(parts)))}
        for name in names:
            index.setdefault((item.path, name), []).append(item)
    return index


def _below(items: Iterable[pytest.Item], path: Path) -> list[pytest.Item]:
    return [item for item in items if item.path == path or path in item.path.parents]


def _inside(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[2]


def _not_found(wanted: _Wanted, items: Iterable[pytest.Item]) -> str:
    names = [_inside(item) for item in items if item.path == wanted.path]
    close = difflib.get_close_matches(wanted.inside, names, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"not found: {wanted.text} (no task of that name in the file{hint})"
