"""What a task is, and what can become of one attempt at it.

Values only: nothing here holds a function, a pytest item or an exception object.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType, TypeAlias

from pytest_flowforge.core.retry import NO_RETRY, RetryPolicy

__all__ = [
    "Failure",
    "FailureKind",
    "Location",
    "Lost",
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
    starts first. ``name`` is what people call the task, ``location`` where it was written.
    """

    id: TaskId
    needs: tuple[TaskId, ...] = ()
    when: Trigger = Trigger.ALL_SUCCESS
    retry: RetryPolicy = NO_RETRY
    timeout: float | None = None
    pools: tuple[tuple[str, int], ...] = ()
    exclusive: bool = False
    priority: int = 0
    name: str = ""
    location: Location | None = None

    @property
    def label(self) -> str:
        """The name, or the id of a task that has none."""
        return self.name or self.id


class FailureKind(Enum):
    """How an attempt failed."""

    ERROR = "error"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Success:
    """The attempt returned."""


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
    for the exit status, and it is never retried.
    """

    kind: FailureKind = FailureKind.ERROR
    message: str = ""
    mro: tuple[str, ...] = ()
    longrepr: str = ""
    expected: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """Nobody knows how the attempt ended: what ran it has gone. Counts as a crash."""

    reason: str = ""


Outcome: TypeAlias = Success | Skipped | Failure | Lost
