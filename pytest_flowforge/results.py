"""What tasks hand to each other: values, and the stand-in for a value that does not exist."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import TaskMoved
from pytest_flowforge.core.model import Failure
from pytest_flowforge.core.records import key_of
from pytest_flowforge.core.states import DONE, SUCCEEDED, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId
    from pytest_flowforge.core.records import TaskRecord

__all__ = ["Absences", "NoResult", "Only", "ValueStore", "only"]


@dataclass(frozen=True, slots=True)
class NoResult:
    """Stands where the result of an upstream would be, when that upstream has none. It is falsy.

    ``state`` is the upstream's state in words (``"failed"``, ``"skipped"``, ``"blocked"``, ...), ``reason`` one line
    that says why, ``error`` the exception as one line (``"ValueError: boom"``) where the upstream failed with one,
    else None.
    """

    task: str
    state: str
    reason: str = ""
    error: str | None = None

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Only:
    """What :func:`only` returns: the tasks that are to go on, by name, and what they get as the result."""

    names: tuple[str, ...]
    value: Any = None


def only(*tasks: str | Callable[..., Any], value: Any = None) -> Only:
    """Return what a task returns to go on with *tasks* only, which are direct downstreams of it; without any, no task.

    A task is given by its name as in ``depends_on``, by its node id, or as its function. ``value`` is the result of the
    task that returns this. Raises :class:`TypeError` for what can be no task. That there are such tasks downstream is
    looked at when the task has ended.
    """
    __tracebackhide__ = True
    return Only(tuple(map(_name_of, tasks)), value)


def _name_of(task: object) -> str:
    __tracebackhide__ = True
    if isinstance(task, str):
        return task
    plain = inspect.unwrap(getattr(task, "__func__", task))  # type: ignore[arg-type]
    if not inspect.isfunction(plain):
        msg = f'only() takes names of tasks and task functions, as in only("load"), and not {task!r:.100}'
        raise TypeError(msg)
    # By module, and not by file: in the process of a pool a function may have come without its file.
    return f"{plain.__module__.rpartition('.')[2]}::{plain.__qualname__.replace('.', '::')}"


class Absences:
    """Why tasks have no result; a sink for the events of a run.

    ``earlier`` has the records of tasks that are no part of the run; ``stopped`` tells why the run was stopped.
    """

    def __init__(self, graph: TaskGraph, earlier: Mapping[TaskId, TaskRecord], stopped: Callable[[], str]) -> None:
        self._graph = graph
        self._earlier = earlier
        self._stopped = stopped
        #: The last move of each task that ended without a result.
        self._moves: dict[TaskId, TaskMoved] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, TaskMoved) and event.after in DONE and event.after not in SUCCEEDED:
            self._moves[event.task] = event

    def of(self, task: TaskId) -> NoResult | None:
        """What stands in the place of the result of *task*; None for a task that nothing is known of."""
        record = self._earlier.get(task)
        if record is not None:
            name = key_of(task).rpartition("::")[2].removeprefix("flow_")
            return NoResult(name, record.state.value, record.because, record.because or None)
        if task not in self._graph:
            return None
        move = self._moves.get(task)
        name = self._graph[task].label
        if move is None:
            return NoResult(name, TaskState.PENDING.value, self._stopped() or "it has not run")
        error = move.outcome.message if isinstance(move.outcome, Failure) else None
        return NoResult(name, move.after.value, move.because or (error or ""), error)


class ValueStore:
    """The results of this run's tasks, in memory.

    A value is given up when the last task that may ask for it is done, so that a long chain of large results does
    not stay in memory as a whole. ``reads`` has the tasks that may ask, with those whose results they may ask for.
    """

    def __init__(self, reads: Mapping[TaskId, frozenset[TaskId]]) -> None:
        self._reads = dict(reads)
        #: How many tasks may still ask for each result.
        self._readers = Counter(upstream for upstreams in reads.values() for upstream in upstreams)
        self._values: dict[TaskId, Any] = {}

    @property
    def wanted(self) -> Mapping[TaskId, int]:
        """How many tasks may still ask for each result."""
        return self._readers

    def __contains__(self, task: TaskId) -> bool:
        return task in self._values

    def reads_now(self, reader: TaskId, upstreams: frozenset[TaskId]) -> None:
        """*reader*, if it may still ask, asks for the results of *upstreams* now; it may not be those of before."""
        before = self._reads.get(reader)
        if before is not None:
            self._reads[reader] = upstreams
            self._readers.update(upstreams - before)
            self._release(before - upstreams)

    def put(self, task: TaskId, value: Any) -> None:
        """Keep *value* as the result of *task* as long as somebody may ask for it."""
        if self._readers.get(task):
            self._values[task] = value

    def get(self, task: TaskId) -> Any:
        """Return the result of *task*; KeyError if there is none."""
        return self._values[task]

    def done(self, reader: TaskId) -> None:
        """*reader* will not ask again."""
        self._release(self._reads.pop(reader, ()))

    def _release(self, tasks: Iterable[TaskId]) -> None:
        for task in tasks:
            self._readers[task] -= 1
            if not self._readers[task]:
                self._values.pop(task, None)
