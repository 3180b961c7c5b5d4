"""What a task is, and what can become of one attempt at it.

Values only: nothing here holds a function, a pytest item or an exception object.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType, TypeAlias

from pytest_flowforge.core.retry import NO_RETRY, RetryPolicy

__all__ = [
    "Branch",
    "Failure",
    "FailureKind",
    "Location",
    "Lost",
    "Measures",
    "Outcome",
    "Skipped",
    "Success",
    "Task",
    "TaskId",
    "Trigger",
]

#: Identifies a task within a run; for a task collected by pytest it is the node id.
TaskId = NewType("TaskId", str)


class Trigger(Enum):
    """The trigger rule of a task: what must have become of its upstreams for it to run."""

    ALL_SUCCESS = "all_success"
    ALL_DONE = "all_done"
    ANY_SUCCESS = "any_success"
    ANY_FAILED = "any_failed"
    ALWAYS = "always"

    # As for TaskState: compared on the per-task path.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file: ``path`` as shown to people, ``line`` counted from 1."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a graph.

    ``needs`` are the direct upstreams, in the order they were declared and without repeats. ``timeout`` is in
    seconds per attempt. ``pools`` are (pool, units) pairs with units of at least 1. A higher ``priority``
    starts first. Without ``takes_slot`` it starts however many others run, for it occupies nobody who could work
    (a coroutine on a shared event loop). ``name`` is what people call the task, ``location`` where it was written.

    A ``mapped`` task is not executed: when its upstreams let it run, somebody is asked for its instances, which are
    tasks with ``instance_of`` set, and it ends when all of them have.
    """

    id: TaskId
    needs: tuple[TaskId, ...] = ()
    when: Trigger = Trigger.ALL_SUCCESS
    retry: RetryPolicy = NO_RETRY
    timeout: float | None = None
    pools: tuple[tuple[str, int], ...] = ()
    exclusive: bool = False
    priority: int = 0
    takes_slot: bool = True
    mapped: bool = False
    instance_of: TaskId | None = None
    name: str = ""
    location: Location | None = None

    @property
    def label(self) -> str:
        """The name, or the id of a task that has none."""
        return self.name or self.id

    def wants_another(self, attempt: int, outcome: Outcome) -> bool:
        """Whether another attempt is to follow attempt number *attempt*, which ended with *outcome*."""
        if isinstance(outcome, Success | Skipped):
            return False
        if isinstance(outcome, Lost):
            return self.retry.wants(attempt, ())
        if outcome.expected or outcome.kind is FailureKind.INTERRUPTED:
            return False
        return self.retry.wants(attempt, outcome.mro, outcome.members)


class FailureKind(Enum):
    """How an attempt failed."""

    ERROR = "error"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Branch:
    """The way on that a task has chosen.

    ``chosen`` are those of its direct downstreams that it named, ``closed`` those that it keeps from going on. What is
    in neither waits for a chosen one as well. ``because`` is one line for people.
    """

    chosen: tuple[TaskId, ...]
    closed: frozenset[TaskId]
    because: str = ""


@dataclass(frozen=True, slots=True)
class Success:
    """The attempt returned.

    ``only`` are names of the tasks that are to go on, in the words of the attempt, and ``branch`` is what they mean in
    the graph, once that is known. None: all go on.
    """

    only: tuple[str, ...] | None = None
    branch: Branch | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """The attempt said that there is nothing to do."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """The attempt failed.

    ``message`` is one line such as ``ValueError: boom``; ``mro`` the qualified names of the classes of the
    exception (``builtins.OSError``), most derived first, because exception objects do not travel; ``longrepr``
    the traceback as text. An ``expected`` failure (xfail) is a failure for the trigger rules of others and none
    for the exit status, and it is never retried. ``members`` are the same names for what an exception group holds, each
    combination once.
    """

    kind: FailureKind = FailureKind.ERROR
    message: str = ""
    mro: tuple[str, ...] = ()
    longrepr: str = ""
    expected: bool = False
    members: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody knows how the attempt ended: what ran it has gone. Counts as a crash."""

    reason: str = ""


Outcome: TypeAlias = Success | Skipped | Failure | Lost


@dataclass(frozen=True, slots=True)
class Measures:
    """What an attempt has taken, as far as whoever made it can know; None and empty where that is not known.

    ``worker`` is a name of the process, thread or loop that made it. ``seconds`` is how long it took there, where the
    run itself sees more than that: an attempt may lie around at its worker before it begins. ``cpu`` is processor time
    in seconds. ``peak_memory`` is the resident memory in bytes that its process has reached during the attempt, where
    it had never reached that before; it was reached by nobody else then. ``result_bytes`` is what the result takes
    where it is stored.
    """

    worker: str = ""
    seconds: float | None = None
    cpu: float | None = None
    peak_memory: int | None = None
    result_bytes: int | None = None
