"""Functions and values in the place of tasks, for flows that are run within tests."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_flowforge.errors import Problem
from pytest_flowforge.plugin.pytest_internals import item_like
from pytest_flowforge.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.plugin.entries import Entry

__all__ = ["OBSERVER", "STAND_INS", "Observer", "StandIns"]


class StandIns:
    """What *replaced* has for tasks, by name: functions to be called, and values to be taken."""

    def __init__(self, replaced: Mapping[str, Any]) -> None:
        self._replaced = dict(replaced)
        self.problems: list[Problem] = []

    def __bool__(self) -> bool:
        return bool(self._replaced)

    def put_in(self, items: Sequence[pytest.Function], entries: Mapping[TaskId, Entry]) -> list[pytest.Function]:
        """Return *items* with stand-ins in the place of some; what is wrong with names is in ``problems``."""
        known = {entry.item: entry for entry in entries.values()}
        by_name: dict[str, list[pytest.Function]] = {}
        for item in items:
            for name in _names_of(known[item]):
                by_name.setdefault(name, []).append(item)
        new: dict[pytest.Item, pytest.Function] = {}
        for name, by in self._replaced.items():
            if name not in by_name:
                close = difflib.get_close_matches(name, [entry.name for entry in entries.values()], n=1)
                hint = f"; did you mean {quoted(close[0])}?" if close else ""
                self.problems.append(Problem("", f"replace: {quoted(name)} names no task{hint}"))
            found = by_name.get(name, [])
            # Variants of a function ask for the same, whoever is called for them.
            some = any(len(known[item].home.entries) > len(found) for item in found)
            for item in found:
                try:
                    new[item] = _in_the_place_of_one(item, by) if some else _stand_in(item, by)
                except _AsksForMore as error:
                    self.problems.append(Problem("", f"replace: {quoted(name)}: {error}"))
        return [new.get(item, item) for item in items]

    def needed(self, before: TaskGraph, after: TaskGraph) -> frozenset[TaskId]:
        """Return what is to run: what nobody waited for *before* there were stand-ins, and what that needs *after*."""
        ends = [task.id for task in before if not before.downstream(task.id)]
        return after.ancestors(ends).union(ends)


class Observer(Protocol):
    """Who is told of everything that a session does, from within the same process; a sink for its events."""

    def refuse(self, problems: Sequence[Problem]) -> None:
        """The flow is wrong: nothing is run."""

    def begin(self, graph: TaskGraph, entries: Mapping[TaskId, Entry]) -> None:
        """The run of *graph* begins; both may grow."""

    def take(self, task: TaskId, value: Any) -> None:
        """*task* has returned *value*."""

    def __call__(self, event: Event) -> None: ...


#: Where the config of a session has these, if it has any.
STAND_INS: pytest.StashKey[StandIns] = pytest.StashKey()
OBSERVER: pytest.StashKey[Observer] = pytest.StashKey()


def _names_of(entry: Entry) -> tuple[str, ...]:
    home = entry.home
    file = entry.id.partition("::")[0]
    names = (entry.name, home.label, home.name, home.function, entry.id, f"{file}::{home.label}")
    # Most have the same name in several ways.
    return tuple(dict.fromkeys(names))


def _stand_in(item: pytest.Function, by: Any) -> pytest.Function:
    """Return an item that is called as *item* is, and calls *by*, or returns it.

    A function waits for what its own parameters and the marks of the task name; a value for nothing.
    """
    if not callable(by):
        return item_like(item, _returning(by), without=("depends_on", "map", "retry"))
    function = by if inspect.isfunction(by) else _calling(by)
    asks = bool(inspect.signature(function).parameters)
    return item_like(item, function, without=() if asks else ("map",))


class _AsksForMore(Exception):
    """A stand-in for one of several variants asks for something that these do not get; the text is for people."""


def _in_the_place_of_one(item: pytest.Function, by: Any) -> pytest.Function:
    """The same for one of several variants, which are told apart by nothing but their parameters."""
    function = by if callable(by) else _returning(by)
    asked = list(inspect.signature(function).parameters)
    known = inspect.signature(item.obj).parameters
    more = [name for name in asked if name not in known]
    if more:
        msg = f"the function asks for {quoted(more[0])}, which {item.originalname} does not: replace all its variants"
        raise _AsksForMore(msg)

    def stand_in(**inputs: Any) -> Any:
        return function(**{name: inputs[name] for name in asked})

    stand_in.__signature__ = inspect.signature(item.obj)  # type: ignore[attr-defined]
    return item_like(item, stand_in)


def _calling(by: Callable[..., Any]) -> Callable[..., Any]:
    def stand_in(**inputs: Any) -> Any:
        return by(**inputs)

    stand_in.__signature__ = inspect.signature(by)  # type: ignore[attr-defined]
    return stand_in


def _returning(value: Any) -> Callable[[], Any]:
    return lambda: value
