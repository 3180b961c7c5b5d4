"""What was collected: task functions, and the tasks that each of them makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.joining import Joiner, Variant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from pytest_flowforge.core.model import Location, TaskId
    from pytest_flowforge.workflow import Task

__all__ = ["Entry", "TaskFunction", "task_id"]


def task_id(item: pytest.Item) -> TaskId:
    """The id of the task that *item* is: what pytest calls it."""
    return item.nodeid  # type: ignore[return-value]


_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class TaskFunction:
    """A function that is a task, or several when it is parametrized.

    ``owner`` is the class it is a method of (``FlowTrain``), or the workflow it belongs to, or empty; ``name`` the
    function's name without the prefix that makes it a task. ``declared`` is the task in code that it is, if it is one;
    ``handed`` has the tasks whose results that hands to parameters of other names, and ``given`` the values it does.
    """

    path: Path
    owner: str
    function: str
    name: str
    location: Location
    declared: Task | None = None
    handed: Mapping[str, Task] = field(default_factory=lambda: _NOTHING)
    given: Mapping[str, object] = field(default_factory=lambda: _NOTHING)
    entries: list[Entry] = field(default_factory=list)
    _joiner: Joiner | None = None
    #: Made when it is asked for: most functions are one task, and there may be very many.
    _by_variant: dict[str | None, Entry] | None = None

    @property
    def label(self) -> str:
        """What a reference within the same file would say."""
        return f"{self.owner}::{self.name}" if self.owner else self.name

    @property
    def joiner(self) -> Joiner:
        """Which variants of this function another task depends on."""
        if self._joiner is None:
            self._joiner = Joiner([Variant(entry.id, entry.variant or "", entry.params) for entry in self.entries])
        return self._joiner

    @property
    def parametrized(self) -> bool:
        """Whether there are variants to tell apart."""
        return self.entries[0].variant is not None

    def entry_of(self, variant: str) -> Entry | None:
        """The task with that in the brackets; None when there is none."""
        if self._by_variant is None:
            self._by_variant = {entry.variant: entry for entry in self.entries}
        return self._by_variant.get(variant)


@dataclass(slots=True, eq=False)
class Entry:
    """One collected task: its item, and where it belongs."""

    item: pytest.Function
    id: TaskId
    home: TaskFunction
    #: What stands in the brackets, which may be nothing; None for a task that has no brackets.
    variant: str | None
    params: Mapping[str, object]
    #: The mapped task whose instance it is, if any: that was not collected, but made when the elements were known.
    instance_of: TaskId | None = None
    #: For such a one, what its element is called.
    label: str = ""

    @property
    def name(self) -> str:
        """The name of the task within its file."""
        return f"{self.home.label}[{self.variant}]" if self.variant is not None else self.home.label
