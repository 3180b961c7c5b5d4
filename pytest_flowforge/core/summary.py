"""A run as its events tell it: states, counts, durations, and what goes back to which failure.

It listens and never asks the engine, so that a journal read later gives the same summary as the run itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from pytest_flowforge.core.messages import InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.model import Failure
from pytest_flowforge.core.states import FAILED_STATES, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import TaskId

__all__ = ["RunSummary", "Summary", "summarize"]

_Fact = TypeVar("_Fact")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What has become of a run so far. Tasks keep the order in which they were declared; times are in seconds."""

    #: Number of tasks in each state; states without tasks count 0.
    counts: Mapping[TaskState, int]
    #: Every task of the run.
    states: Mapping[TaskId, TaskState]
    #: Attempts begun, for tasks that began.
    attempts: Mapping[TaskId, int]
    #: How long the last attempt that ended took.
    durations: Mapping[TaskId, float]
    #: How long all attempts that ended took together, without the waits between them.
    totals: Mapping[TaskId, float]
    #: Why a task is where it is, for tasks of which that was said.
    reasons: Mapping[TaskId, str]
    #: Each failed task that others were blocked by, directly or not, with those others. Mapped tasks that have
    #: instances are not among them: they only stand for these, which have outcomes of their own.
    blocked_by_root: Mapping[TaskId, tuple[TaskId, ...]]
    #: Failed, timed out, crashed and interrupted tasks, without expected failures.
    failed: tuple[TaskId, ...]
    #: Tasks that failed as they were expected to.
    expected_failures: tuple[TaskId, ...]
    #: Tasks that are still pending.
    never_started: tuple[TaskId, ...]
    #: The reason of an early end, else empty.
    stopped: str
    #: Whether the run has ended.
    ended: bool
    #: From the beginning of the run to its end, or to the last event.
    makespan: float

    @property
    def ok(self) -> bool:
        """Whether every task succeeded, was reused or skipped, or failed as expected."""
        unfinished = self.counts[TaskState.RUNNING] + self.counts[TaskState.RETRYING]
        return not (self.failed or self.never_started or unfinished or self.counts[TaskState.BLOCKED])


def summarize(tasks: Iterable[TaskId], events: Iterable[Event]) -> RunSummary:
    """Return the summary of *events* about a run of *tasks*."""
    summary = Summary(tasks)
    for event in events:
        summary.apply(event)
    return summary.snapshot()


class Summary:
    """Takes events one by one, each at a constant cost; :meth:`snapshot` may be taken at any time.

    ``states``, ``counts``, ``attempts`` and ``expected`` (failures that were) are kept up to date for those who show a
    run while it goes on; they are for reading.
    """

    def __init__(self, tasks: Iterable[TaskId]) -> None:
        self.states: dict[TaskId, TaskState] = dict.fromkeys(tasks, TaskState.PENDING)
        self.counts: Counter[TaskState] = Counter(dict.fromkeys(TaskState, 0))
        self.counts[TaskState.PENDING] = len(self.states)
        self.attempts: dict[TaskId, int] = {}
        self.stopped = ""
        self.ended = False
        self._durations: dict[TaskId, float] = {}
        #: What the attempts before the last one took together, for tasks that had several.
        self._before: dict[TaskId, float] = {}
        self._reasons: dict[TaskId, str] = {}
        self._causes: dict[TaskId, TaskId] = {}
        #: Mapped tasks that have instances.
        self._expanded: set[TaskId] = set()
        self.expected: set[TaskId] = set()
        #: When the attempts that are running began.
        self._since: dict[TaskId, float] = {}
        self._began = 0.0
        self._last = 0.0

    def apply(self, event: Event) -> None:
        """Take note of *event*. A task that was not declared is taken in at the end of the others."""
        self._last = event.at
        if isinstance(event, TaskMoved):
            self._on_moved(event)
        elif isinstance(event, RunBegan):
            self._began = event.at
        elif isinstance(event, InstancesAdded):
            self._add(event.instances)
            if event.instances:
                self._expanded.add(event.task)
        else:
            self._on_ended(event)

    def _add(self, tasks: Iterable[TaskId]) -> None:
        for task in tasks:
            if task not in self.states:
                self.states[task] = TaskState.PENDING
                self.counts[TaskState.PENDING] += 1

    def _on_moved(self, event: TaskMoved) -> None:
        task = event.task
        if task in self.states:
            self.counts[self.states[task]] -= 1
        self.states[task] = event.after
        self.counts[event.after] += 1
        if event.because:
            self._reasons[task] = event.because
        if event.after is TaskState.RUNNING:
            self._since[task] = event.at
            self.attempts[task] = event.attempt
        elif event.before is TaskState.RUNNING:
            self._time(task, event.at)
        if event.after is TaskState.BLOCKED and event.cause is not None:
            self._causes[task] = event.cause
        if isinstance(event.outcome, Failure) and event.outcome.expected:
            self.expected.add(task)

    def _time(self, task: TaskId, at: float) -> None:
        earlier = self._durations.get(task)
        if earlier is not None:
            self._before[task] = self._before.get(task, 0.0) + earlier
        self._durations[task] = at - self._since.pop(task, at)

    def _on_ended(self, event: RunEnded) -> None:
        self.stopped = event.stopped
        self.ended = True

    def snapshot(self) -> RunSummary:
        """Return the run as it is now; later events do not change the answer."""
        failed = [task for task, state in self.states.items() if state in FAILED_STATES]
        totals = {task: self._before.get(task, 0.0) + last for task, last in self._durations.items()}
        return RunSummary(
            counts=MappingProxyType(dict(self.counts)),
            states=MappingProxyType(dict(self.states)),
            attempts=self._declared(self.attempts),
            durations=self._declared(self._durations),
            totals=self._declared(totals),
            reasons=self._declared(self._reasons),
            blocked_by_root=MappingProxyType(self.blocked_by_root()),
            failed=tuple(task for task in failed if task not in self.expected),
            expected_failures=tuple(task for task in failed if task in self.expected),
            never_started=tuple(task for task, state in self.states.items() if state is TaskState.PENDING),
            stopped=self.stopped,
            ended=self.ended,
            makespan=self._last - self._began,
        )

    def _declared(self, facts: Mapping[TaskId, _Fact]) -> Mapping[TaskId, _Fact]:
        """Return a copy of *facts* in the order of declaration."""
        return MappingProxyType({task: facts[task] for task in self.states if task in facts})

    def blocked_by_root(self) -> dict[TaskId, tuple[TaskId, ...]]:
        """Return what :class:`RunSummary` has under that name."""
        roots: dict[TaskId, TaskId] = {}
        blocked: dict[TaskId, list[TaskId]] = {}
        for task in self.states:
            if task in self._causes and task not in self._expanded:
                blocked.setdefault(self._root(task, roots), []).append(task)
        return {root: tuple(blocked[root]) for root in self.states if root in blocked}

    def _root(self, task: TaskId, roots: dict[TaskId, TaskId]) -> TaskId:
        """Follow the causes from *task* to one that was not blocked itself; remember it for all on the way."""
        way = []
        while task in self._causes and task not in roots:
            way.append(task)
            task = self._causes[task]
        root = roots.get(task, task)
        roots.update(dict.fromkeys(way, root))
        return root
