"""Events for those who are no plugin: a file of JSON lines, and a logger. Both are sinks of the run."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from pytest_flowforge.core.messages import Event, InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.states import FAILED_STATES, TaskState
from pytest_flowforge.failures import one_line
from pytest_flowforge.plugin.output_files import unwritable
from pytest_flowforge.report.events import EventLines
from pytest_flowforge.report.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_flowforge.plugin.output_files import Places

__all__ = ["LOGGER", "EventFile", "RunLogger"]

_OPTION = "--ff-events"

_LONGEST_REASON = 400

#: The logger of all runs.
LOGGER = logging.getLogger("pytest_flowforge.run")
# Where nobody listens, Python would write warnings to standard error.
LOGGER.addHandler(logging.NullHandler())


class EventFile:
    """``--ff-events FILE``: a line for each event, with the operating system before the next thing happens.

    It is opened, and emptied, before anything is collected: what an earlier run has left there is never taken for this
    one's. Once it can not be written any more, that is told to *tell* and it ends there.
    """

    def __init__(self, file: IO[str], name: str, tell: Callable[[str], None]) -> None:
        self._file: IO[str] | None = file
        self._name = name
        self._tell = tell
        self._lines = EventLines(str, {})

    @classmethod
    def open(cls, places: Places, name: str, tell: Callable[[str], None]) -> EventFile:
        """Open the file *name*, which may be a pipe or a device; raises UsageError where that fails."""
        path = places.find(_OPTION, name)
        try:
            return cls(path.open("w", encoding="ascii"), name, tell)
        except OSError as error:
            raise unwritable(_OPTION, path, error) from None

    def begin(self, run: Callable[[], str], counts: Mapping[TaskState, int]) -> None:
        """*run* returns the id of the run once it has begun; *counts* is kept up to date by the caller."""
        self._lines = EventLines(run, counts)

    def __call__(self, event: Event) -> None:
        file = self._file
        line = self._lines.line(event) if file is not None else ""
        if file is None or not line:
            return
        try:
            file.write(line)
            file.flush()
        except OSError as error:
            self._tell(f"{_OPTION} {self._name}: {one_line(error)}; nothing more is written there")
            self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            # What could not be written has been told.
            with suppress(OSError):
                file.close()


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
