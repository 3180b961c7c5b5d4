"""What the engine is told (signals), what it wants done (commands), and what has happened (events).

All are frozen; times (``at``) are seconds since the epoch by the run's own steady clock, handed in by whoever
owns that clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from pytest_flowforge.core.model import Failure, FailureKind, Measures, Outcome, Skipped, Success, Task, TaskId
from pytest_flowforge.core.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AttemptFinished",
    "CancelAttempt",
    "Command",
    "Event",
    "ExecutorLost",
    "ExpandTask",
    "InstancesAdded",
    "Reaction",
    "RunBegan",
    "RunEnded",
    "RunStarted",
    "Signal",
    "SlotsChanged",
    "StartAttempt",
    "StopRequested",
    "TaskExpanded",
    "TaskMoved",
    "TimeReached",
    "state_after",
]


# Signals: what happened outside of the engine.


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run begins; the first signal, given once."""

    at: float


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """An attempt has ended. One the engine no longer waits for (cancelled, late) is ignored.

    ``measures`` are passed on and decide nothing.
    """

    task: TaskId
    attempt: int
    outcome: Outcome
    at: float
    measures: Measures | None = None


@dataclass(frozen=True, slots=True)
class TimeReached:
    """It is now ``at``: retries that are due may start, attempts past their deadline have timed out."""

    at: float


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """From now on ``slots`` tasks that take one may run at a time (0: none of them, for the moment)."""

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


@dataclass(frozen=True, slots=True)
class ExecutorLost:
    """Nothing can be executed any more, for ``reason``, and the run ends; the first such signal counts.

    What has not started is blocked; retries are given up, attempts in flight are lost. With ``clean_up`` somebody can
    still execute clean-up (``always``) and alarms (``any_failed``), if any task of the run has begun: those that are
    due run, once, as after a stop, and those in flight are left to end.
    """

    reason: str
    at: float
    clean_up: bool = False


@dataclass(frozen=True, slots=True)
class TaskExpanded:
    """The instances of a mapped task are known: ``instances``, in their order, none for an empty list.

    Each needs what the mapped task needed. ``pools`` are pools that they alone ask for, with sizes. ``restored`` maps
    instances whose results stand to the reason, ``refused`` those that may not run.
    """

    task: TaskId
    instances: tuple[Task, ...]
    at: float
    pools: Mapping[str, int] = field(default_factory=dict)
    restored: Mapping[TaskId, str] = field(default_factory=dict)
    refused: Mapping[TaskId, str] = field(default_factory=dict)


Signal: TypeAlias = (
    RunStarted | AttemptFinished | TaskExpanded | TimeReached | SlotsChanged | StopRequested | ExecutorLost
)


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


@dataclass(frozen=True, slots=True)
class ExpandTask:
    """Find out the instances of this mapped task, and answer with :class:`TaskExpanded`.

    Where that can not be done, the answer is the end of its attempt number 1.
    """

    task: TaskId


Command: TypeAlias = StartAttempt | CancelAttempt | ExpandTask


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
    people. ``cause`` is the upstream a skip or block goes back to directly; what is blocked without one was kept from
    running by something that is no task. ``outcome`` is there when an attempt ended, and ``measures`` where somebody
    has taken them. ``resume_at`` is there when a retry waits.
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
    measures: Measures | None = None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Nothing runs and nothing will. ``stopped`` is the reason of an early end, else empty."""

    at: float
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class InstancesAdded:
    """A mapped task has got these instances, which are part of the run from now on."""

    task: TaskId
    instances: tuple[TaskId, ...]
    at: float


Event: TypeAlias = RunBegan | TaskMoved | InstancesAdded | RunEnded


@dataclass(frozen=True, slots=True)
class Reaction:
    """The engine's answer to one signal. The events are to be made known before any command is obeyed."""

    commands: tuple[Command, ...] = ()
    events: tuple[Event, ...] = ()


#: The state in which a failure of each kind ends.
_FAILED_AS = {
    FailureKind.ERROR: TaskState.FAILED,
    FailureKind.TIMED_OUT: TaskState.TIMED_OUT,
    FailureKind.CRASHED: TaskState.CRASHED,
    FailureKind.INTERRUPTED: TaskState.INTERRUPTED,
}


def state_after(outcome: Outcome) -> TaskState:
    """Return the state in which an attempt with *outcome* leaves its task, unless another attempt follows."""
    if isinstance(outcome, Success):
        return TaskState.SUCCESS
    if isinstance(outcome, Failure):
        return _FAILED_AS[outcome.kind]
    return TaskState.SKIPPED if isinstance(outcome, Skipped) else TaskState.CRASHED
