"""The states of a task and the moves between them.

The table :data:`MOVES` is the only statement of what may follow what; the engine, the documentation and the
tests read this same table.
"""

from __future__ import annotations

from enum import Enum

from pytest_flowforge.errors import IllegalMove

__all__ = ["DONE", "FAILED_STATES", "MOVES", "SUCCEEDED", "TaskState", "check_move"]


class TaskState(Enum):
    """Where a task is in its life; the value is the word shown to people and written to files."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCESS = "success"
    REUSED = "reused"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"
    BLOCKED = "blocked"

    # Members are singletons, and they are dict keys on the per-task path: identity is the cheapest hash.
    __hash__ = object.__hash__


_ENDS_OF_AN_ATTEMPT = frozenset(
    {
        TaskState.SUCCESS,
        TaskState.FAILED,
        TaskState.TIMED_OUT,
        TaskState.CRASHED,
        TaskState.INTERRUPTED,
        TaskState.SKIPPED,
    }
)

#: From each state, the states that may follow it. A state that nothing follows is an end.
MOVES: dict[TaskState, frozenset[TaskState]] = {
    TaskState.PENDING: frozenset(
        {
            TaskState.RUNNING,
            TaskState.REUSED,
            TaskState.SKIPPED,
            TaskState.BLOCKED,
        }
    ),
    TaskState.RUNNING: _ENDS_OF_AN_ATTEMPT | {TaskState.RETRYING},
    # A run that is stopped, or can execute nothing any more, gives up the attempts that were still to come: the last
    # failure stands.
    TaskState.RETRYING: frozenset(
        {
            TaskState.RUNNING,
            TaskState.FAILED,
            TaskState.TIMED_OUT,
            TaskState.CRASHED,
        }
    ),
    TaskState.SUCCESS: frozenset(),
    TaskState.REUSED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.TIMED_OUT: frozenset(),
    TaskState.CRASHED: frozenset(),
    TaskState.INTERRUPTED: frozenset(),
    TaskState.SKIPPED: frozenset(),
    TaskState.BLOCKED: frozenset(),
}

#: The states nothing follows.
DONE: frozenset[TaskState] = frozenset(state for state, after in MOVES.items() if not after)

#: The ends that leave a result behind.
SUCCEEDED: frozenset[TaskState] = frozenset({TaskState.SUCCESS, TaskState.REUSED})

#: The ends of a task that was tried and did not make it.
FAILED_STATES: frozenset[TaskState] = frozenset(
    {
        TaskState.FAILED,
        TaskState.TIMED_OUT,
        TaskState.CRASHED,
        TaskState.INTERRUPTED,
    }
)


def check_move(task: str, before: TaskState, after: TaskState) -> None:
    """Raise :class:`IllegalMove` unless *task* may go from *before* to *after*."""
    if after not in MOVES[before]:
        allowed = ", ".join(sorted(state.value for state in MOVES[before])) or "nothing: it is an end"
        msg = f"{task}: {before.value} -> {after.value} is no legal move; from {before.value} may follow {allowed}"
        raise IllegalMove(msg)
