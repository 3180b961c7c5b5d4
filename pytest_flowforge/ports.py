"""The protocols between the driver and what it drives: executors, sinks, the clock.

Each can be replaced; none knows the engine or pytest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pytest_flowforge.core.model import Measures, Outcome, TaskId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_flowforge.core.messages import Event

__all__ = ["Clock", "EventSink", "Executor", "Finished", "Job", "Key"]

#: A task and the number of an attempt at it.
Key: TypeAlias = tuple[TaskId, int]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one attempt as an executor reports it; ``value`` is the result of a success."""

    task: TaskId
    attempt: int
    outcome: Outcome
    value: Any = None
    measures: Measures | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt, ready to be executed.

    ``call(**inputs)`` does the work and returns the outcome and the result. It raises only what is to stop the
    whole run (KeyboardInterrupt and the like). It may wrap a pytest item; no executor has to know.
    """

    task: TaskId
    attempt: int
    call: Callable[..., tuple[Outcome, Any]]
    inputs: Mapping[str, Any] = field(default_factory=dict)


class Executor(Protocol):
    """Something that executes jobs. Pulled, never calling back: nothing above it needs a lock."""

    @property
    def slots(self) -> int:
        """How many jobs it executes at a time, without those of tasks that take no slot.

        Where it is :attr:`lost`: how many of clean-up tasks and alarms, which somebody else may do then.
        """

    @property
    def lost(self) -> str:
        """Why it can not execute anything any more; empty while it can.

        Looked at after each :meth:`wait`. Afterwards nothing is started, and what was in flight is cancelled: all but
        clean-up and alarms, if there are slots for them.
        """

    def start(self, job: Job) -> None:
        """Begin *job*; returns soon or, where there is only this thread, does the work in :meth:`wait`."""

    def is_made(self, task: TaskId, attempt: int) -> bool:
        """Whether that attempt is being made, or has ended, although it was not started yet: it was sure to come."""
        del task, attempt
        return False

    def cancel(self, task: TaskId, attempt: int) -> None:
        """Stop that attempt if it can be stopped; its end need not be reported any more."""

    def interrupt(self) -> None:
        """Somebody wants the run to end: ask what runs to stop, where that can be done.

        Returns soon. What stops because of that is reported like any other end; jobs that start later are not meant.
        """

    def wait(self, timeout: float | None) -> Sequence[Finished]:
        """Return what has finished, waiting for the first for at most *timeout* seconds (None: no limit)."""

    def close(self) -> None:
        """Free everything. No job is started afterwards."""


class EventSink(Protocol):
    """Something that remembers or shows what happened."""

    def __call__(self, event: Event) -> None:
        """Take note of *event*; called once for each, in order."""


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds since the epoch; never goes backwards within a run."""

    def sleep(self, seconds: float) -> None:
        """Return after *seconds*."""
