"""From the items of a session to the tasks of its flows, with the files that references lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_flowforge.plugin.collecting import FlowModule
from pytest_flowforge.plugin.graphing import Blueprint, draw
from pytest_flowforge.plugin.joining_files import collect_file
from pytest_flowforge.plugin.references import Directory, FileNotCollected

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flowforge.plugin.collecting import Collecting
    from pytest_flowforge.plugin.options import Options

__all__ = ["draw_all", "is_task"]


def draw_all(
    session: pytest.Session, items: Iterable[pytest.Item], collecting: Collecting, options: Options
) -> tuple[Directory, Blueprint]:
    """Draw the tasks of *items*, collecting the files that references lead to until there is none left.

    The same items make the same tasks in the same order, in every process.
    """
    directory = Directory(_functions(items), collecting)
    while True:
        try:
            return directory, draw(directory, options)
        except FileNotCollected as missing:
            found = collect_file(session, missing.path, (entry.item for entry in directory.entries.values()))
            directory.add(_functions(item for item in found if is_task(item)))
            directory.tried(missing.path)


def is_task(item: pytest.Item) -> bool:
    """Whether *item* is a function in a flow file."""
    return isinstance(item, pytest.Function) and item.getparent(FlowModule) is not None


def _functions(items: Iterable[pytest.Item]) -> list[pytest.Function]:
    return [item for item in items if isinstance(item, pytest.Function)]
