"""A run in numbers: how long what has taken and waited, how busy whoever made it was, and what the end waited for.

It listens, as :mod:`~pytest_flowforge.core.summary` does, and besides the events it knows the graph. All that is worked
out is worked out when somebody asks.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_flowforge.core.messages import InstancesAdded, RunBegan, RunEnded, TaskMoved
from pytest_flowforge.core.states import DONE, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowforge.core.graph import TaskGraph
    from pytest_flowforge.core.messages import Event
    from pytest_flowforge.core.model import Measures, TaskId

__all__ = ["AttemptMetrics", "Metrics", "PathStep", "RunMetrics", "TaskMetrics", "WaitedFor", "WorkerMetrics"]


class WaitedFor(Enum):
    """What an attempt on the critical path had to wait for last, before it began."""

    #: The beginning of the run, or of whoever made the attempt.
    NOTHING = "nothing"
    #: The upstream that ended last.
    UPSTREAM = "upstream"
    #: A slot, or room in a pool, which the step before has given back.
    SLOT = "slot"
    #: The attempt before, and the wait after that.
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class AttemptMetrics:
    """One attempt that has ended. Times are in seconds since the epoch.

    ``ready_at`` is when nothing but room was missing any more; ``state`` what the task was in afterwards.
    """

    task: TaskId
    number: int
    state: TaskState
    ready_at: float
    started_at: float
    ended_at: float
    measures: Measures | None = None

    @property
    def seconds(self) -> float:
        """How long it took: where it was made, if that is known."""
        known = None if self.measures is None else self.measures.seconds
        seen = self.ended_at - self.started_at
        return seen if known is None else min(known, seen)

    @property
    def began_at(self) -> float:
        """When that began; before, it may have been on its way or lain around where it was made."""
        known = None if self.measures is None else self.measures.seconds
        return self.started_at if known is None else max(self.started_at, self.ended_at - known)

    @property
    def queue_wait(self) -> float:
        """Seconds for which nothing but room was missing."""
        return self.started_at - self.ready_at


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """What a task has come to; a mapped one has no attempts of its own once it has instances."""

    task: TaskId
    state: TaskState
    attempts: tuple[AttemptMetrics, ...] = ()

    @property
    def seconds(self) -> float:
        """How long all attempts took, without the waits between them."""
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def queue_wait(self) -> float:
        """Seconds for which nothing but room was missing, before all attempts together."""
        return sum(attempt.queue_wait for attempt in self.attempts)

    @property
    def retry_wait(self) -> float:
        """Seconds from the ends of attempts until the next ones might start."""
        return sum(
            later.ready_at - earlier.ended_at for earlier, later in zip(self.attempts, self.attempts[1:], strict=False)
        )

    @property
    def cpu(self) -> float | None:
        """Processor seconds of all attempts; None where they are not known of each."""
        return _sum_of_known([None if one.measures is None else one.measures.cpu for one in self.attempts])

    @property
    def peak_memory(self) -> int | None:
        """The most that is known of any attempt, in bytes; None where nothing is known."""
        known = [one.measures.peak_memory for one in self.attempts if one.measures is not None]
        return max((peak for peak in known if peak is not None), default=None)

    @property
    def result_bytes(self) -> int | None:
        """What the result takes where it is stored; None where there is none, or nobody has stored it."""
        last = self.attempts[-1].measures if self.attempts else None
        return None if last is None else last.result_bytes

    @property
    def workers(self) -> tuple[str, ...]:
        """Who has made the attempts, as far as that is known, each once."""
        names = (one.measures.worker for one in self.attempts if one.measures is not None)
        return tuple(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True, slots=True)
class WorkerMetrics:
    """What one worker process, thread or event loop has done.

    ``busy`` is for how many seconds it had at least one attempt, ``utilization`` which part of the run that is.
    """

    attempts: int
    busy: float
    utilization: float


@dataclass(frozen=True, slots=True)
class PathStep:
    """A part of the critical path: an attempt, what it waited for last, and how long nothing of the path happened."""

    attempt: AttemptMetrics
    waited_for: WaitedFor
    wait: float


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """A run in numbers; times are in seconds.

    ``critical_path`` is the chain of attempts that the end of the run waited for, as it really was: each waited for the
    one before, as its upstream, for the room that it took, or as the attempt before it. Waits and durations on it add
    up to the time at which its last attempt ended.
    """

    tasks: Mapping[TaskId, TaskMetrics]
    workers: Mapping[str, WorkerMetrics]
    critical_path: tuple[PathStep, ...]
    began_at: float
    last_at: float
    ended: bool
    stopped: str

    @property
    def makespan(self) -> float:
        """From the beginning of the run to its end, or to the last event."""
        return self.last_at - self.began_at

    @property
    def work(self) -> float:
        """How long all attempts took together."""
        return sum(task.seconds for task in self.tasks.values())

    @property
    def cpu(self) -> float | None:
        """Processor seconds of all attempts; None where they are not known of each."""
        return _sum_of_known([task.cpu for task in self.tasks.values() if task.attempts])

    @property
    def critical_path_seconds(self) -> float:
        """How long the attempts on the critical path took, without the waits between them."""
        return sum(step.attempt.seconds for step in self.critical_path)

    @property
    def speed_up(self) -> float:
        """How many times as long one attempt after the other would have taken; 0 where nothing has taken any time."""
        return self.work / self.makespan if self.makespan > 0 else 0.0


class Metrics:
    """Takes events one by one, each at a constant cost; :meth:`snapshot` may be taken at any time.

    ``graph`` is the one that grows while the run goes on.
    """

    def __init__(self, graph: TaskGraph) -> None:
        self._graph = graph
        self._states: dict[TaskId, TaskState] = {}
        #: When tasks have ended, however that was.
        self._ends: dict[TaskId, float] = {}
        #: When instances of mapped tasks became known.
        self._added: dict[TaskId, float] = {}
        #: Of attempts that run: number and beginning. Of waiting ones: when they may start.
        self._running: dict[TaskId, tuple[int, float]] = {}
        self._resume_at: dict[TaskId, float] = {}
        self._attempts: dict[TaskId, list[AttemptMetrics]] = {}
        self._began_at = self._last_at = 0.0
        self._ended = False
        self._stopped = ""

    def __call__(self, event: Event) -> None:
        self._last_at = event.at
        if isinstance(event, TaskMoved):
            self._on_moved(event)
        elif isinstance(event, RunBegan):
            self._began_at = event.at
        elif isinstance(event, InstancesAdded):
            self._added.update(dict.fromkeys(event.instances, event.at))
        elif isinstance(event, RunEnded):
            self._ended, self._stopped = True, event.stopped

    def _on_moved(self, event: TaskMoved) -> None:
        task = event.task
        self._states[task] = event.after
        if event.after in DONE:
            self._ends[task] = event.at
        if event.after is TaskState.RUNNING:
            self._running[task] = (event.attempt, event.at)
        elif event.before is TaskState.RUNNING:
            self._on_attempt(event)
        if event.resume_at is not None:
            self._resume_at[task] = event.resume_at

    def _on_attempt(self, event: TaskMoved) -> None:
        task = event.task
        # Ctrl-C may have come between us and the beginning.
        number, started = self._running.pop(task, (event.attempt, event.at))
        ready = self._resume_at.pop(task, None)
        # Where it is the first, that is found out when somebody asks.
        ready = started if ready is None else min(ready, started)
        if not self._graph[task].mapped:
            # Those are never executed.
            attempt = AttemptMetrics(task, number, event.after, ready, started, event.at, event.measures)
            self._attempts.setdefault(task, []).append(attempt)

    @property
    def work(self) -> float:
        """How many seconds all attempts that have ended took together, as seen from here."""
        return sum(one.ended_at - one.started_at for attempts in self._attempts.values() for one in attempts)

    def snapshot(self) -> RunMetrics:
        """Return the run as it is now; later events do not change the answer."""
        tasks = {task.id: self._task(task.id) for task in self._graph}
        attempts = [attempt for task in tasks.values() for attempt in task.attempts]
        return RunMetrics(
            tasks=MappingProxyType(tasks),
            workers=MappingProxyType(_workers(attempts, self._last_at - self._began_at)),
            critical_path=_Paths(self._graph, tasks, self._ends, attempts).to_the_end(self._began_at),
            began_at=self._began_at,
            last_at=self._last_at,
            ended=self._ended,
            stopped=self._stopped,
        )

    def _task(self, task: TaskId) -> TaskMetrics:
        attempts = self._attempts.get(task, [])
        if attempts and attempts[0].number == 1:
            first = attempts[0]
            ready = min(self._ready_at(task, first.started_at), first.started_at)
            first = AttemptMetrics(
                task, 1, first.state, ready, first.started_at, first.ended_at, measures=first.measures
            )
            attempts = [first, *attempts[1:]]
        return TaskMetrics(task, self._states.get(task, TaskState.PENDING), tuple(attempts))

    def _ready_at(self, task: TaskId, started: float) -> float:
        """When all upstreams had ended; a task that did not wait for all of them (clean-up) was ready when it began."""
        ends = [self._ends.get(need, started) for need in self._graph[task].needs]
        return max([self._added.get(task, self._began_at), *ends])


def _workers(attempts: Iterable[AttemptMetrics], makespan: float) -> dict[str, WorkerMetrics]:
    spans: dict[str, list[tuple[float, float]]] = {}
    for attempt in attempts:
        if attempt.measures is not None and attempt.measures.worker:
            spans.setdefault(attempt.measures.worker, []).append((attempt.started_at, attempt.ended_at))
    workers = {}
    for name in sorted(spans):
        busy = _covered(spans[name])
        workers[name] = WorkerMetrics(len(spans[name]), busy, busy / makespan if makespan > 0 else 0.0)
    return workers


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much time lies in at least one of *spans*: attempts may lie around at a worker, or share an event loop."""
    covered, until = 0.0, -math.inf
    for start, end in sorted(spans):
        if end > until:
            covered += end - max(start, until)
            until = end
    return covered


class _Paths:
    """Finds what attempts have waited for."""

    def __init__(
        self,
        graph: TaskGraph,
        tasks: Mapping[TaskId, TaskMetrics],
        ends: Mapping[TaskId, float],
        attempts: Iterable[AttemptMetrics],
    ) -> None:
        self._graph = graph
        self._tasks = tasks
        self._ends = ends
        #: By their ends; of those at the same time, the one that began first comes last.
        self._by_end = sorted(attempts, key=lambda one: (one.ended_at, -one.started_at))
        self._times = [attempt.ended_at for attempt in self._by_end]

    def to_the_end(self, began_at: float) -> tuple[PathStep, ...]:
        """Return the chain that leads to the attempt that ended last."""
        steps: list[PathStep] = []
        attempt = self._by_end[-1] if self._by_end else None
        while attempt is not None:
            before, why = self._before(attempt)
            wait = attempt.began_at - (began_at if before is None else before.ended_at)
            steps.append(PathStep(attempt, why, wait))
            attempt = before
        return tuple(reversed(steps))

    def _before(self, attempt: AttemptMetrics) -> tuple[AttemptMetrics | None, WaitedFor]:
        """Return what *attempt* has waited for last; always an attempt that began before it did."""
        last = self._last_until(attempt.started_at, attempt)
        if last is not None and last.ended_at > attempt.ready_at:
            # Had there been room, it would have begun before that.
            return last, WaitedFor.SLOT
        if attempt.number > 1:
            earlier = [one for one in self._tasks[attempt.task].attempts if one.number == attempt.number - 1]
            if earlier:
                return earlier[0], WaitedFor.RETRY
        started, ends = attempt.started_at, self._ends
        needs = [need for need in self._graph[attempt.task].needs if ends.get(need, math.inf) <= started]
        if not needs:
            return None, WaitedFor.NOTHING
        latest = max(needs, key=ends.__getitem__)
        found = self._tasks[latest].attempts
        # What was skipped, or has instances, ended because of something else at that time.
        upstream = found[-1] if found else self._last_until(ends[latest], attempt)
        return upstream, WaitedFor.NOTHING if upstream is None else WaitedFor.UPSTREAM

    def _last_until(self, at: float, attempt: AttemptMetrics) -> AttemptMetrics | None:
        """Return what had ended last at *at*, of other tasks, having begun before *attempt*."""
        place = bisect_right(self._times, at)
        while place:
            place -= 1
            found = self._by_end[place]
            if found.task != attempt.task and found.started_at < attempt.started_at:
                return found
        return None


def _sum_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
