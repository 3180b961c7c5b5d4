"""A graph with some of its tasks replaced, for tests and trials."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_flowforge.errors import GraphError, Problem, UnknownTask
from pytest_flowforge.rules import BadRule, mapping
from pytest_flowforge.workflow.graphs import TaskGraph
from pytest_flowforge.workflow.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["replaced"]


class _Given:
    """Stands for the function of a task whose result is known."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


def replaced(graph: TaskGraph, replace: Mapping[str, Any]) -> TaskGraph:
    """Return *graph* with the functions or values that *replace* has for some of its tasks, by name.

    A function is called with what its own parameters are named after; everything else that holds for the task stays:
    what it depends on, its trigger rule, retries, pools. A value is the result as it stands, and waits for nothing.
    Raises :class:`GraphError` for a name that is no task.
    """
    try:
        given = mapping("replace", replace, "a value or a function for each task that is to be replaced")
    except BadRule as error:
        raise GraphError([Problem("", str(error))]) from None
    problems: list[Problem] = []
    stand_ins: dict[str, Any] = {}
    for name, by in given.items():
        try:
            stand_ins[graph[name].name] = by
        except UnknownTask as error:
            problems.append(Problem("", f"replace: {error}"))
    if problems:
        raise GraphError(problems)
    return graph.with_stand_ins({name: _stand_in(graph[name], by) for name, by in stand_ins.items()})


def _stand_in(task: Task, by: Any) -> Task:
    # Another task lends its function, nothing else.
    by = by.func if isinstance(by, Task) else by
    if not callable(by):
        return Task(task.name, _Given(by))
    own = Task(task.name, by)
    return _copy(
        task,
        func=by,
        arguments={name: value for name, value in task.arguments.items() if name in own.parameters},
        resources={name: make for name, make in task.resources.items() if name in own.parameters},
    )


def _copy(task: Task, **changes: Any) -> Task:
    facts: dict[str, Any] = {one.name: getattr(task, one.name) for one in fields(task) if one.name not in _WORKED_OUT}
    # These are asked for under other names.
    facts["retries"], facts["pool"] = facts.pop("retry"), dict(facts.pop("pools"))
    return Task(**{**facts, **changes})


#: What a task finds out by itself.
_WORKED_OUT = ("location", "parameters")
