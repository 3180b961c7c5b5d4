"""Tasks put together: what names what, found out once for all of them, with everything that is wrong on the way."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core import graph as core
from pytest_flowforge.core import model
from pytest_flowforge.core.graph import NO_POOLS
from pytest_flowforge.errors import GraphError, Problem, UnknownTask
from pytest_flowforge.rules import BadRule, mapping, pool_name, whole
from pytest_flowforge.wording import quoted
from pytest_flowforge.workflow.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.workflow.tasks import Reference

__all__ = ["Arriving", "Plan", "TaskGraph"]

#: The parameter at which the results of all direct upstreams arrive.
_UPSTREAM = "upstream"


@dataclass(slots=True)
class Arriving:
    """What arrives at one task: results by parameter, values by parameter, and where all upstreams arrive (or None)."""

    results: dict[str, TaskId] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    upstream: dict[str, TaskId] | None = None

    @property
    def read(self) -> Iterator[TaskId]:
        """The tasks whose results are looked at."""
        yield from self.results.values()
        if self.upstream is not None:
            yield from self.upstream.values()


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph that can be run: the tasks that decide, the functions that are called, and what arrives at them."""

    graph: core.TaskGraph
    tasks: Mapping[TaskId, Task]
    arriving: Mapping[TaskId, Arriving]


class TaskGraph:
    """The tasks of a workflow, in the order in which they were added.

    ``pools`` maps the names of pools to their sizes. A task may name others that are added later.
    """

    def __init__(self, tasks: Iterable[Task] = (), *, pools: Mapping[str, int] = NO_POOLS) -> None:
        self.pools = _sizes(pools)
        self._tasks: dict[str, Task] = {}
        #: The tasks of each function, by its identity: it need not be hashable, and lives as long as they do.
        self._of_function: dict[tuple[int, int], list[Task]] = {}
        #: Tasks of another graph that others may still refer to, and what stands here in their place.
        self._stand_ins: dict[Task, Task] = {}
        self._plan: Plan | None = None
        for task in tasks:
            self.add(task)

    def add(self, task: Task) -> Task:
        """Add *task* and return it; raise :class:`GraphError` when there is another one of that name."""
        _check(task)
        other = self._tasks.get(task.name)
        if other is not None:
            places = f" ({other.location})" if other.location is not None else ""
            text = f"there is a task {quoted(task.name)} already{places}: give one of them another name"
            raise GraphError([_problem(task, text)])
        self._tasks[task.name] = task
        self._of_function.setdefault(_identity(task.func), []).append(task)
        self._plan = None
        return task

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def __contains__(self, reference: object) -> bool:
        try:
            self._find(reference)
        except _NoSuchTask:
            return False
        return True

    def __getitem__(self, reference: Reference) -> Task:
        """Return the task that *reference* names; raise :class:`~pytest_flowforge.errors.UnknownTask`."""
        try:
            return self._find(reference)
        except _NoSuchTask as error:
            raise UnknownTask(str(error)) from None

    def meant_by(self, value: Any) -> Task | None:
        """Return the task that *value* is, or is the function of; None where it is just a value, or of several."""
        if isinstance(value, Task):
            return value if self._tasks.get(value.name) is value else self._stand_ins.get(value)
        own = self._of_function.get(_identity(value), ()) if callable(value) else ()
        return own[0] if len(own) == 1 else None

    def __repr__(self) -> str:
        return f"<TaskGraph of {len(self):,} tasks>"

    def with_stand_ins(self, new: Mapping[str, Task]) -> TaskGraph:
        """Return this graph with *new* tasks, by name, in the place of some: who refers to these means those."""
        graph = TaskGraph((new.get(task.name, task) for task in self), pools=self.pools)
        for task in self:
            if task.name in new:
                stand_in = graph._stand_ins[task] = new[task.name]
                graph._of_function.setdefault(_identity(task.func), []).append(stand_in)
        return graph

    def validate(self) -> core.TaskGraph:
        """Return the tasks as the engine sees them: their order, levels, upstreams and downstreams.

        Raises :class:`~pytest_flowforge.errors.GraphError` with everything that is wrong with them.
        """
        return self.plan().graph

    def plan(self) -> Plan:
        """Return what can be run; raises as :meth:`validate` does."""
        if self._plan is None:
            self._plan = self._put_together()
        return self._plan

    def _put_together(self) -> Plan:
        problems: list[Problem] = []
        tasks, arriving = {}, {}
        pure = []
        sizes = dict(self.pools)
        for task in self:
            needs, arrives = self._link(task, problems)
            for pool, units in task.pools:
                if pool not in self.pools:
                    problems.append(_problem(task, _no_pool(task, pool)))
                    # The core need not tell it again.
                    sizes[pool] = max(units, sizes.get(pool, 0))
            tasks[_id(task)], arriving[_id(task)] = task, arrives
            pure.append(_pure(task, needs))
        try:
            graph = core.TaskGraph.build(pure, sizes)
        except GraphError as error:
            problems += error.problems
        if problems:
            raise GraphError(problems)
        return Plan(graph, tasks, arriving)

    def ends(self) -> tuple[str, ...]:
        """Return the names of the tasks that no other one waits for, whatever is wrong with the graph."""
        waited_for = {need for task in self for need in self._link(task, [])[0]}
        return tuple(task.name for task in self if _id(task) not in waited_for)

    def _link(self, task: Task, problems: list[Problem]) -> tuple[tuple[TaskId, ...], Arriving]:
        """Return what *task* waits for and what arrives at it; what is wrong is added to *problems*."""
        arrives = Arriving()
        needs: dict[TaskId, None] = {}
        for reference in task.depends_on:
            try:
                needs[_id(self._find(reference))] = None
            except _NoSuchTask as error:
                problems.append(_problem(task, f"depends_on of {quoted(task.name)}: {error}"))
        for name in task.parameters:
            self._arrive(task, name, arrives, problems)
        needs.update(dict.fromkeys(arrives.results.values()))
        if arrives.upstream is not None:
            arrives.upstream = {str(need): need for need in needs}
        return tuple(needs), arrives

    def _arrive(self, task: Task, name: str, arrives: Arriving, problems: list[Problem]) -> None:
        """Take note of what arrives at the parameter *name* of *task*."""
        if name in task.resources:
            return
        if name in task.arguments:
            value = task.arguments[name]
            upstream = self.meant_by(value)
            if upstream is None and isinstance(value, Task):
                problems.append(_problem(task, f"arguments of {quoted(task.name)}: {_stranger(value)}"))
            elif upstream is None:
                arrives.values[name] = value
            else:
                arrives.results[name] = _id(upstream)
        elif name in self._tasks:
            arrives.results[name] = _id(self._tasks[name])
        elif name == _UPSTREAM:
            arrives.upstream = {}
        else:
            text = (
                f"parameter {name!r} of {quoted(task.name)} is neither a task nor in arguments= or resources="
                f"{self._suggestion(name)}"
            )
            problems.append(_problem(task, text))

    def _find(self, reference: object) -> Task:
        if isinstance(reference, Task):
            meant = self.meant_by(reference)
            if meant is None:
                raise _NoSuchTask(_stranger(reference))
            return meant
        if isinstance(reference, str):
            found = self._tasks.get(reference) or self._tasks.get(reference.removeprefix("flow_"))
            if found is None:
                msg = f"{quoted(reference)} names no task{self._suggestion(reference)}"
                raise _NoSuchTask(msg)
            return found
        own = self._of_function.get(_identity(reference), ())
        if len(own) == 1:
            return own[0]
        name = getattr(reference, "__qualname__", quoted(reference))
        if not own:
            msg = f"{name} is not the function of a task: add it first"
        else:
            msg = f"{name} is the function of several tasks: name one of {', '.join(quoted(one.name) for one in own)}"
        raise _NoSuchTask(msg)

    def _suggestion(self, name: str) -> str:
        close = difflib.get_close_matches(name, self._tasks, n=3)
        return f"; did you mean {' or '.join(map(quoted, close))}?" if close else ""


def _check(task: object) -> None:
    if not isinstance(task, Task):
        msg = f"{quoted(task)} is no task: write Task(name, func=...)"
        raise GraphError([Problem("", msg)])


class _NoSuchTask(LookupError):
    """Nothing here is called that; the text is for people."""


def _identity(func: Any) -> tuple[int, int]:
    """What tells functions apart; a bound method is another object each time that somebody asks for it."""
    return id(getattr(func, "__func__", func)), id(getattr(func, "__self__", None))


def _stranger(task: Task) -> str:
    return f"the task {quoted(task.name)} is not in this graph: add it"


def _problem(task: Task, text: str) -> Problem:
    return Problem("" if task.location is None else str(task.location), text)


def _no_pool(task: Task, pool: str) -> str:
    # The core would speak of options of the command line.
    return (
        f"{quoted(task.name)} asks for pool {quoted(pool)}, and there is no such pool: give it a size, "
        f"as in Workflow(..., pools={{{quoted(pool)}: 1}})"
    )


def _id(task: Task) -> TaskId:
    return model.TaskId(task.name)


def _pure(task: Task, needs: tuple[TaskId, ...]) -> model.Task:
    return model.Task(
        id=_id(task),
        needs=needs,
        when=task.when,
        retry=task.retry,
        timeout=task.timeout,
        pools=task.pools,
        exclusive=task.exclusive,
        priority=task.priority,
        name=task.name,
        location=task.location,
    )


def _sizes(pools: Mapping[str, int]) -> dict[str, int]:
    try:
        sizes = mapping("pools", pools, "the size of each pool, as in pools={'gpu': 1}").items()
        return {pool_name(name): whole("pools", str(name), size, least=1) for name, size in sizes}
    except BadRule as error:
        raise GraphError([Problem("", str(error))]) from None
