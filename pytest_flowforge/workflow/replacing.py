"""A graph with some of its tasks replaced, for tests and trials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.model import Trigger
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
    new: dict[Task, Task] = {}
    # Upstreams first: what refers to one that has changed has changed as well.
    for name in graph.validate().order:
        task = graph[name]
        other = _stand_in(task, stand_ins[name]) if name in stand_ins else task
        new[task] = _rewired(other, graph, new)
    return TaskGraph((new[task] for task in graph), pools=graph.pools)


def _stand_in(task: Task, by: Any) -> Task:
    # Another task lends its function, nothing else.
    by = by.func if isinstance(by, Task) else by
    func = by if callable(by) else _Given(by)
    own = Task(task.name, func)
    return _copy(
        task,
        func=func,
        depends_on=task.depends_on if own.parameters else (),
        # With nothing to wait for, nothing of it could have succeeded or failed.
        when=task.when if own.parameters or task.when is Trigger.ALWAYS else Trigger.ALL_SUCCESS,
        arguments={name: value for name, value in task.arguments.items() if name in own.parameters},
        resources={name: make for name, make in task.resources.items() if name in own.parameters},
    )


def _rewired(task: Task, graph: TaskGraph, new: Mapping[Task, Task]) -> Task:
    """Return *task* with what it says of tasks of *graph* said of the *new* ones in their place."""

    def now(value: Any) -> Any:
        meant = graph.meant_by(value)
        return value if meant is None or new.get(meant, meant) is meant else new[meant]

    depends_on = tuple(map(now, task.depends_on))
    arguments = {name: now(value) for name, value in task.arguments.items()}
    same = [*map(id, depends_on), *map(id, arguments.values())]
    if same == [*map(id, task.depends_on), *map(id, task.arguments.values())]:
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
