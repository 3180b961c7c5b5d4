"""A graph with some of its tasks replaced, for tests and trials."""

from __future__ import annotations

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

    A function is called with what its own parameters are named after. A value is the result as it stands. Everything
    else that holds for the task stays (its trigger rule, retries, pools). Raises :class:`GraphError` for a name that
    is no task.
    """
    try:
        stand_ins = mapping("replace", replace, "a value or a function for each task that is to be replaced")
    except BadRule as error:
        raise GraphError([Problem("", str(error))]) from None
    problems, new = [], {}
    for name, by in stand_ins.items():
        try:
            task = graph[name]
        except UnknownTask as error:
            problems.append(Problem("", f"replace: {error}"))
            continue
        new[task.name] = _stand_in(task, by)
    if problems:
        raise GraphError(problems)
    changed = {task: new[task.name] for task in graph if task.name in new}
    return TaskGraph((changed.get(task) or _rewired(task, changed) for task in graph), pools=graph.pools)


def _stand_in(task: Task, by: Any) -> Task:
    # Another task lends its function, nothing else.
    by = by.func if isinstance(by, Task) else by
    func = by if callable(by) else _Given(by)
    own = Task(task.name, func)
    return _copy(
        task,
        func=func,
        depends_on=task.depends_on if own.parameters else (),
        arguments={name: value for name, value in task.arguments.items() if name in own.parameters},
        resources={name: make for name, make in task.resources.items() if name in own.parameters},
    )


def _rewired(task: Task, changed: Mapping[Task, Task]) -> Task:
    """Return *task* with what it says of other tasks said of those in their place."""
    by_function = {id(old.func): new for old, new in changed.items()}

    def now(value: Any) -> Any:
        if isinstance(value, Task):
            return changed.get(value, value)
        return by_function.get(id(value), value) if callable(value) else value

    depends_on = tuple(map(now, task.depends_on))
    arguments = {name: now(value) for name, value in task.arguments.items()}
    if depends_on == task.depends_on and arguments == dict(task.arguments):
        return task
    return _copy(task, depends_on=depends_on, arguments=arguments)


def _copy(task: Task, **changes: Any) -> Task:
    facts: dict[str, Any] = {
        "func": task.func,
        "depends_on": task.depends_on,
        "arguments": task.arguments,
        "resources": task.resources,
        "when": task.when,
        "retries": task.retry,
        "timeout": task.timeout,
        "pool": dict(task.pools),
        "exclusive": task.exclusive,
        "priority": task.priority,
        "idempotent": task.idempotent,
    }
    return Task(task.name, **{**facts, **changes})
