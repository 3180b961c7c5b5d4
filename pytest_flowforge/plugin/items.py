"""Items that answer the same as pytest's, in less time.

pytest and its plugins ask each item a dozen times for its marks, of which it seldom has any, and once where it is,
which takes pytest three walks through the file system. With thousands of tasks that do little this is a tenth of a
run. Nothing else about an item is changed here.
"""

from __future__ import annotations

from functools import cached_property
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["FlowFunction", "adopt"]

#: Attributes of a function by which pytest looks for it elsewhere.
_POINTERS = ("__wrapped__", "place_as")

#: File, as functions written there have it -> the same as pytest shows it.
_FILES = pytest.StashKey[dict[str, str]]()


def adopt(items: Iterable[pytest.Item]) -> None:
    """Make those *items* that are of pytest's own kind FlowFunctions; those of other plugins know better themselves.

    pytest makes the items and has no way to be told of another class for them.
    """
    for item in items:
        if type(item) is pytest.Function:
            item.__class__ = FlowFunction


class FlowFunction(pytest.Function):
    """A task, of which there may be very many."""

    def __repr__(self) -> str:
        # What --collect-only shows.
        return f"<Function {self.name}>"

    @cached_property
    def location(self) -> tuple[str, int | None, str]:
        """File as it is shown, line from 0, name within the file."""
        function = getattr(self.obj, "__func__", self.obj)
        # Looked up in the function's own dict: a function has a class, but that has none of these.
        if type(function) is not FunctionType or not function.__dict__.keys().isdisjoint(_POINTERS):
            return super().location
        code = function.__code__
        files = self.session.stash.setdefault(_FILES, {})
        file = files.get(code.co_filename)
        if file is None:
            location = super().location
            # What pytest makes of any other file may depend on the working directory.
            if code.co_filename == str(self.path):
                files[code.co_filename] = location[0]
            return location
        name = self.name if isinstance(self.parent, pytest.Module) else self.getmodpath()
        return file, code.co_firstlineno - 1, name

    # All looked at each time: anybody may add a mark to any node at any moment.

    def get_closest_marker(self, name: str, default: Any = None) -> Any:
        """As pytest has it."""
        node: Any = self
        while node is not None:
            for mark in node.own_markers:
                if mark.name == name:
                    return mark
            node = node.parent
        return None if default is None else super().get_closest_marker(name, default)

    def iter_markers(self, name: str | None = None) -> Iterator[pytest.Mark]:
        """As pytest has it."""
        found: list[pytest.Mark] = []
        node: Any = self
        while node is not None:
            if node.own_markers:
                found += [mark for mark in node.own_markers if name is None or mark.name == name]
            node = node.parent
        return iter(found)

    def iter_markers_with_node(self, name: str | None = None) -> Iterator[tuple[Any, pytest.Mark]]:
        """As pytest has it."""
        found: list[tuple[Any, pytest.Mark]] = []
        node: Any = self
        while node is not None:
            if node.own_markers:
                found += [(node, mark) for mark in node.own_markers if name is None or mark.name == name]
            node = node.parent
        return iter(found)
