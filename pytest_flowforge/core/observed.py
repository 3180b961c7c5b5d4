"""What observers of a run are given: the arguments of the event hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.model import Outcome
    from pytest_flowforge.core.states import TaskState
    from pytest_flowforge.core.summary import Summary

__all__ = ["Run", "TaskResult"]


@dataclass(frozen=True, slots=True)
class Run:
    """The run that an event belongs to.

    ``summary`` is what has happened so far. ``stopped`` is the reason of an early end, else empty.
    """

    graph: TaskGraph
    summary: Summary
    started_at: float
    ended_at: float | None = None
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a task, or an attempt that is not the last, ended.

    ``because`` is one line for people; ``outcome`` is None for a task that never ran; ``seconds`` is how long the
    attempt took.
    """

    state: TaskState
    attempt: int
    seconds: float
    because: str = ""
    outcome: Outcome | None = None
