"""What happens in a run, for the logging of Python: a sink that logs."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from pytest_flowforge.core.messages import Event, InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.states import FAILED_STATES, TaskState
from pytest_flowforge.report.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LOGGER", "RunLogger"]

#: Characters of a reason that are logged.
_LONGEST_REASON = 400

#: The logger of all runs.
LOGGER = logging.getLogger("pytest_flowforge.run")
# Where nobody listens, Python would write warnings to standard error.
LOGGER.addHandler(logging.NullHandler())


class RunLogger:
    """Logs what happens to tasks to :data:`LOGGER`.

    Each record has ``run``, ``task`` and ``attempt``, for formatters and filters. Failures are errors, retries are
    warnings, what runs and ends as it should is told to those who listen for it (INFO).
    """

    def __init__(self, run: Callable[[], str]) -> None:
        self._run = run

    def __call__(self, event: Event) -> None:
        level = _level(event)
        if LOGGER.isEnabledFor(level):
            task, attempt, message, arguments = _message(event)
            LOGGER.log(level, message, *arguments, extra={"run": self._run(), "task": task, "attempt": attempt})


def _level(event: Event) -> int:
    if isinstance(event, TaskMoved):
        if event.after in FAILED_STATES or event.after is TaskState.BLOCKED:
            return logging.ERROR
        return logging.WARNING if event.after is TaskState.RETRYING else logging.INFO
    return logging.WARNING if isinstance(event, RunEnded) and event.stopped else logging.INFO


def _message(event: Event) -> tuple[str, int, str, tuple[object, ...]]:
    """Return the task and attempt that *event* is about, and what is logged of it, which may end on a terminal."""
    if isinstance(event, RunBegan):
        return "", 0, "run begins: %d tasks", (event.tasks,)
    if isinstance(event, RunEnded):
        return "", 0, *(("run ends: %s", (_reason(event.stopped),)) if event.stopped else ("run ends", ()))
    name = printable(event.task, sys.maxsize)
    if isinstance(event, InstancesAdded):
        return event.task, 0, "%s is mapped over %d elements", (name, len(event.instances))
    if event.after is TaskState.RUNNING:
        return event.task, event.attempt, "%s begins, attempt %d", (name, event.attempt)
    if event.because and event.after is not TaskState.SUCCESS:
        return event.task, event.attempt, "%s: %s: %s", (name, event.after.value, _reason(event.because))
    return event.task, event.attempt, "%s: %s", (name, event.after.value)


def _reason(text: str) -> str:
    return printable(text, _LONGEST_REASON)
