"""What the page of a run shows, gathered from its events: a fold, with what pytest says of each attempt added to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_flowforge.core.messages import InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.metrics import Metrics
from pytest_flowforge.core.states import FAILED_STATES, TaskState
from pytest_flowforge.core.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import Measures, TaskId

__all__ = ["AttemptFacts", "Gathering", "TaskFacts", "as_json"]

#: Characters of one text that are kept, from its beginning and its end.
_LONGEST = 20_000
#: Characters of all logs of attempts that have failed, and of all others. After these, only ends are kept: the page is
#: to stay one that a browser opens at once.
_ROOM = {True: 1_000_000, False: 500_000}
_SHORT = 200


@dataclass(slots=True)
class AttemptFacts:
    """One attempt; ``state`` is what the task was after it, and ``ended`` None while it goes on."""

    number: int
    began: float
    ended: float | None = None
    state: TaskState = TaskState.RUNNING
    because: str = ""
    #: Where it ran; empty where that is not known, or is the only place there is.
    worker: str = ""
    error: str = ""
    #: In seconds and bytes, where they are known.
    cpu: float | None = None
    peak_memory: int | None = None
    #: What was written and logged: (name, text).
    sections: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class TaskFacts:
    """One task; ``cause`` is the upstream that a skip or block goes back to."""

    state: TaskState = TaskState.PENDING
    because: str = ""
    cause: TaskId | None = None
    attempts: list[AttemptFacts] = field(default_factory=list)


@dataclass(slots=True)
class _Reported:
    worker: str
    error: str
    sections: dict[str, str]


class Gathering:
    """Takes events one by one, each at a constant cost. What pytest reports of an attempt comes before its end."""

    def __init__(self, graph: TaskGraph) -> None:
        self.graph = graph
        self.tasks: dict[TaskId, TaskFacts] = {task.id: TaskFacts() for task in graph}
        #: The same events in numbers, and what goes back to which failure.
        self.metrics = Metrics(graph)
        self.summary = Summary(self.tasks)
        self.began = 0.0
        #: When the last event was.
        self.last = 0.0
        self.ended = False
        self.stopped = ""
        self._reported: dict[str, _Reported] = {}
        self._room = dict(_ROOM)

    def record(self, task: str, sections: Iterable[tuple[str, str]], error: str = "", worker: str = "") -> None:
        """Take in what there is of one phase of an attempt at *task*; later phases repeat the sections before."""
        reported = self._reported.setdefault(task, _Reported("", "", {}))
        reported.worker = worker or reported.worker
        reported.sections.update(sections)
        if error:
            reported.error = f"{reported.error}\n\n{error}" if reported.error else error

    def apply(self, event: Event) -> None:
        """Take note of *event*."""
        self.last = event.at
        self.metrics(event)
        self.summary.apply(event)
        if isinstance(event, TaskMoved):
            self._on_moved(event)
        elif isinstance(event, RunBegan):
            self.began = event.at
        elif isinstance(event, InstancesAdded):
            for task in event.instances:
                self.tasks.setdefault(task, TaskFacts())
        elif isinstance(event, RunEnded):
            self.ended = True
            self.stopped = event.stopped

    def _on_moved(self, event: TaskMoved) -> None:
        facts = self.tasks.setdefault(event.task, TaskFacts())
        facts.state, facts.because, facts.cause = event.after, event.because, event.cause
        reported = self._reported.pop(event.task, None)
        if event.after is TaskState.RUNNING:
            facts.attempts.append(AttemptFacts(event.attempt, event.at))
            return
        if event.before is TaskState.RUNNING and facts.attempts:
            attempt = facts.attempts[-1]
            attempt.ended, attempt.state, attempt.because = event.at, event.after, event.because
            self._measure(attempt, event.measures)
            if reported is not None:
                self._keep(attempt, reported)

    def _measure(self, attempt: AttemptFacts, measures: Measures | None) -> None:
        if measures is None or attempt.ended is None:
            return
        attempt.worker, attempt.cpu, attempt.peak_memory = measures.worker, measures.cpu, measures.peak_memory
        if measures.seconds is not None:
            # Before that it lay around at its worker.
            attempt.began = max(attempt.began, attempt.ended - measures.seconds)

    def _keep(self, attempt: AttemptFacts, reported: _Reported) -> None:
        failed = attempt.state in FAILED_STATES or attempt.state is TaskState.RETRYING
        attempt.worker = attempt.worker or reported.worker
        attempt.error = self._cut(reported.error, failed=failed)
        attempt.sections = [(name, self._cut(text, failed=failed)) for name, text in reported.sections.items() if text]

    def _cut(self, text: str, *, failed: bool) -> str:
        longest = _LONGEST if self._room[failed] > 0 else _SHORT
        if len(text) > longest:
            half = longest // 2
            text = f"{text[:half]}\n... {len(text) - 2 * half:,} characters are not kept here ...\n{text[-half:]}"
        self._room[failed] -= len(text)
        return text


def as_json(attempt: AttemptFacts) -> dict[str, Any]:
    """Return *attempt* as the page reads it, without what is empty."""
    facts: Mapping[str, Any] = {
        "number": attempt.number,
        "began": round(attempt.began, 3),
        "ended": None if attempt.ended is None else round(attempt.ended, 3),
        "state": attempt.state.value,
        "because": attempt.because,
        "worker": attempt.worker,
        "cpu": None if attempt.cpu is None else round(attempt.cpu, 3),
        "memory": attempt.peak_memory,
        "error": attempt.error,
        "sections": attempt.sections,
    }
    return {
        name: fact for name, fact in facts.items() if fact not in ("", []) and (fact is not None or name == "ended")
    }
