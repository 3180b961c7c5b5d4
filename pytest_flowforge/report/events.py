"""The events of a run as JSON, one object a line: for programs that follow a run, or look at it later.

Every object has ``event``, the name of the hook without its prefix, and ``at``, seconds since the epoch. The fields of
each are in the reference, under "Events as lines of JSON".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import Event, InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Failure
from pytest_flowforge.core.states import DONE, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_flowforge.core.model import TaskId

__all__ = ["FORMAT", "EventLines"]

#: Version of the lines; a new field or event is no new version, a changed meaning is.
FORMAT = 1

_encode = json.JSONEncoder(ensure_ascii=True, check_circular=False).encode


class EventLines:
    """Turns the events of one run into lines, each at a constant cost.

    ``run`` returns the id of the run once it has begun, empty for one that is not kept. ``counts`` is kept up to date
    by somebody else: the number of tasks in each state.
    """

    def __init__(self, run: Callable[[], str], counts: Mapping[TaskState, int]) -> None:
        self._run = run
        self._counts = counts
        self._began_at = 0.0
        #: When the attempt that is running of each task began.
        self._began: dict[TaskId, float] = {}

    def line(self, event: Event) -> str:
        """Return *event* as a line that ends with a newline; empty for one that says nothing of its own."""
        fields = self._fields(event)
        return f"{_encode(fields)}\n" if fields else ""

    def _fields(self, event: Event) -> dict[str, Any]:
        if isinstance(event, TaskMoved):
            return self._moved(event)
        if isinstance(event, InstancesAdded):
            return {"event": "task_expanded", "at": event.at, "task": event.task, "instances": list(event.instances)}
        if isinstance(event, RunBegan):
            self._began_at = event.at
            return {"event": "run_started", "at": event.at, "format": FORMAT, "run": self._run(), "tasks": event.tasks}
        return self._ended(event)

    def _moved(self, event: TaskMoved) -> dict[str, Any]:
        after = event.after
        fields: dict[str, Any] = {"event": "", "at": event.at, "task": event.task, "attempt": event.attempt}
        if after is TaskState.RUNNING:
            self._began[event.task] = event.at
            fields["event"] = "task_started"
            return fields
        fields["state"] = after.value
        fields["seconds"] = round(event.at - self._began.pop(event.task, event.at), 6)
        if event.because:
            fields["because"] = event.because
        if isinstance(event.outcome, Failure):
            fields["kind"] = event.outcome.kind.value
        if after is TaskState.RETRYING:
            delay = 0.0 if event.resume_at is None else max(event.resume_at - event.at, 0.0)
            return {**fields, "event": "task_retrying", "delay": round(delay, 6)}
        if after not in DONE:
            return {}
        if event.cause is not None:
            fields["cause"] = event.cause
        fields["event"] = "task_finished"
        return fields

    def _ended(self, event: RunEnded) -> dict[str, Any]:
        counts = {state.value: count for state, count in self._counts.items() if count}
        seconds = round(event.at - self._began_at, 6)
        ended: dict[str, Any] = {"event": "run_finished", "at": event.at, "seconds": seconds, "counts": counts}
        return {**ended, "stopped": event.stopped} if event.stopped else ended
