"""What the engine is told (signals), what it wants done (commands), and what has happened (events).

All are frozen; times (``at``) are seconds since the epoch by the run's own steady clock, handed in by whoever
owns that clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pytest_flowforge.core.model import Outcome, TaskId
from pytest_flowforge.core.states import TaskState

__all__ = [
    "AttemptFinished",
    "CancelAttempt",
    "Command",
    "Event",
    "Reaction",
    "RunBegan",
    "RunEnded",
    "RunStarted",
    "Signal",
    "SlotsChanged",
    "StartAttempt",
    "StopRequested",
    "TaskMoved",
    "TimeReached",
]


# Signals: what happened outside of the engine.


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins; the first signal, given once."""

    at: float


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """An attempt has ended. One the engine no longer waits for (cancelled, late) is ignored."""

    task: TaskId
    attempt: int
    outcome: Outcome
    at: float


@dataclass(frozen=True, slots=True)
class TimeReached:
    """It is now ``at``: retries that are due may start, attempts past their deadline have timed out."""

    at: float


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """From now on ``slots`` tasks may run at a time (0: none, for the moment)."""

    slots: int
    at: float


@dataclass(frozen=True, slots=True)
class StopRequested:
    """No new task starts, but for clean-up (``always``) and alarms (``any_failed``) that are due.

    With ``abort`` nothing starts at all, and what runs is cancelled.
    """

    reason: str
    at: float
    abort: bool = False


Signal: TypeAlias = RunStarted | AttemptFinished | TimeReached | SlotsChanged | StopRequested


# Commands: what is to be done outside of the engine.


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Start this attempt (counted from 1) now."""

    task: TaskId
    attempt: int


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """The outcome of this attempt is no longer wanted: stop it if that can be done."""

    task: TaskId
    attempt: int


Command: TypeAlias = StartAttempt | CancelAttempt


# Events: what has happened. Replaying them rebuilds every state.


@dataclass(frozen=True, slots=True)
class RunBegan:
    """The run has begun with this many tasks."""

    tasks: int
    at: float


@dataclass(frozen=True, slots=True)
class TaskMoved:
    """A task has changed its state.

    ``attempt`` is the attempt that is running or that ended (0 before the first). ``because`` is one line for
    people. ``cause`` is the upstream a skip or block goes back to directly. ``outcome`` is there when an
    attempt ended. ``resume_at`` is there when a retry waits.
    """

    task: TaskId
    before: TaskState
    after: TaskState
    attempt: int
    at: float
    because: str = ""
    cause: TaskId | None = None
    outcome: Outcome | None = None
    resume_at: float | None = None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Nothing runs and nothing will. ``stopped`` is the reason of an early end, else empty."""

    at: float
    stopped: str = ""


Event: TypeAlias = RunBegan | TaskMoved | RunEnded


@dataclass(frozen=True, slots=True)
class Reaction:
    """The engine's answer to one signal. The events are to be made known before any command is obeyed."""

    commands: tuple[Command, ...] = ()
    events: tuple[Event, ...] = ()
